"""What this machine knows of the chain, outside of the database: the last event that was behind a head signed here.

Whoever can write to the database can cut off the end of the chain, with the heads that cover it, and nothing in the database
tells. This file does: the event must still be there, with the same hash.
"""

import json
import os
from pathlib import Path

import structlog

from services.auth.core.audit_chain import Place

log = structlog.get_logger(__name__)

FILE_MODE = 0o600


class Witness:
    """Blocking, but small: a line that is read at the start and replaced once a minute."""

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / "auth-head.json"
        self.place = self._read()

    def remember(self, place: Place) -> None:
        if place.sequence <= self.place.sequence:
            return
        self.place = place
        if self._path is None:
            return
        unfinished = self._path.with_suffix(f".{os.getpid()}")
        try:
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
            with os.fdopen(descriptor, "w") as file:
                json.dump({"sequence": place.sequence, "hash": place.hash.hex()}, file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self._path)
        except OSError as error:
            log.warning("audit_witness_failed", error=error.strerror)

    def _read(self) -> Place:
        try:
            values = json.loads(self._path.read_text()) if self._path else None
            return Place(int(values["sequence"]), bytes.fromhex(values["hash"])) if values else Place()
        except FileNotFoundError:
            return Place()
        except (OSError, ValueError, KeyError, TypeError):
            log.exception("audit_witness_unreadable")
            return Place()
