"""Writes what the scheduler is told and decides to a file, for as long as there is room.

Lines are collected, and written by a thread about once a second: the event loop never waits for a disk. At its
bound a recording ends with a line that says so; if the disk fails it ends, and the log says so. Requests never
notice.
"""

import asyncio
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Self

import structlog

from services.inference.core.recording import STOPPED, line

log = structlog.get_logger(__name__)

FLUSH_EVERY_S = 1.0
_AT_BOUND = line(STOPPED, reason="its bound in bytes is reached")


class Recorder:
    """A recording's file. The bound counts what is collected and not written yet too."""

    def __init__(self, path: Path, *, bytes_max: int) -> None:
        self._path = path
        self._left_bytes = bytes_max - len(_AT_BOUND)
        self._on = True  # Whether more is taken.
        self._collected: deque[str] = deque()  # Of all containers, one that two threads may share.
        self._file: int | None = None
        self._one_writer = Lock()  # A thread may still be writing when the service ends.

    @classmethod
    @contextmanager
    def opened(cls, path: Path, *, bytes_max: int) -> Iterator[Self]:
        """Begin a new file, readable by its owner only; the one before is kept as `NAME.previous`."""
        made = cls(path, bytes_max=bytes_max)
        made._open()
        try:
            yield made
        finally:
            made._close()

    @property
    def active(self) -> bool:
        """Whether it still takes what is written."""
        return self._on

    def write(self, text: str) -> None:
        """Take lines that belong together: all of them get into the file, or none."""
        if not self._on:
            return
        self._left_bytes -= len(text)  # JSON is written in ASCII.
        if self._left_bytes < 0:
            self._on = False
            log.warning("recording_ended", path=str(self._path), reason="its bound in bytes is reached")
        self._collected.append(text if self._on else _AT_BOUND)

    async def run(self, *, every_s: float = FLUSH_EVERY_S) -> None:
        """Write what was collected, again and again, until there will be no more or this is cancelled."""
        while self._on or self._collected:
            await asyncio.sleep(every_s)
            await asyncio.to_thread(self._flush)

    def _open(self) -> None:
        try:
            if self._path.exists():
                self._path.replace(self._path.with_name(f"{self._path.name}.previous"))
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            self._fail(error)

    def _flush(self) -> None:
        with self._one_writer:
            collected = [self._collected.popleft() for _ in range(len(self._collected))]
            left = memoryview("".join(collected).encode("ascii"))
            try:
                while left and self._file is not None:
                    left = left[os.write(self._file, left) :]
            except OSError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        self._on = False
        self._collected.clear()
        log.warning("recording_ended", path=str(self._path), reason=error.strerror)

    def _close(self) -> None:
        self._on = False
        self._flush()
        if self._file is not None:
            os.close(self._file)
            self._file = None
