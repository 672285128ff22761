"""Where a service keeps audit events that the chain cannot take just now."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from services.common.auditing.spool import FOLDER_MODE
from services.common.config import Environment

SPOOL_BYTES_MAX = 64 * 1024 * 1024  # Some 300,000 events.


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditConfig:
    spool: Path | None = None  # Nowhere: whoever must not act unrecorded is refused while the chain is away.
    spool_bytes_max: int = SPOOL_BYTES_MAX

    @classmethod
    def read(cls, env: Environment) -> Self:
        given = env.optional("OLLAMESH_AUDIT_SPOOL")
        spool = Path(given) if given else None
        if spool is not None and not _can_be_written(spool):
            env.reject("OLLAMESH_AUDIT_SPOOL", "is not a folder that can be written to")
        bytes_max = env.integer("OLLAMESH_AUDIT_SPOOL_BYTES_MAX", SPOOL_BYTES_MAX, low=4096, high=2**40)
        return cls(spool=spool, spool_bytes_max=bytes_max)


def _can_be_written(folder: Path) -> bool:
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)
