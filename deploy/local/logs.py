"""A log file for each part: what its processes wrote, one after the other."""

import os
from pathlib import Path
from typing import BinaryIO

SIZE_MAX_BYTES = 10 * 2**20  # Looked at when a process starts; one older file is kept.
TAIL_BYTES = 8192  # A Python traceback with room to spare.


class Log:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._begin = 0  # Where the latest process started to write.

    def begin(self) -> BinaryIO:
        """The file, for one more process to append to."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.path.exists() and self.path.stat().st_size > SIZE_MAX_BYTES:
            self.path.replace(self.path.with_suffix(".log.1"))
        file = os.fdopen(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb")
        self._begin = os.fstat(file.fileno()).st_size
        return file

    def tail(self) -> str:
        """The end of what the latest process wrote."""
        try:
            with self.path.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(self._begin, end - TAIL_BYTES))
                return file.read().decode(errors="replace")
        except OSError:
            return ""
