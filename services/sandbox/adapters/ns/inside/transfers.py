"""Files on their way between the service and the folder of a session, in the init.

Each moves a part whenever its pipe is ready for one, so that nobody waits for a slow reader or writer, and the memory
that it takes has a bound. Who gives up closes the pipe.
"""

import json
import os
import select
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple
from typing import assert_never

from services.sandbox.guest.files import FAILED, FileError, Folder, Upload

from .order import Closed, Delete, FileOrder, Found, Get, List, Message, Put

WORKING_FOLDER = "/work"
PART_BYTES = 1 << 16  # What a pipe holds.
COUNT_MAX = 16

Tell = Callable[[Message], None]


class Transfers:
    def __init__(self, events: select.poll, tell: Tell) -> None:
        self._events, self._tell = events, tell
        self._folder = Folder(WORKING_FOLDER)
        self._under_way: dict[int, _Coming | _Going] = {}  # By the descriptor of the pipe.

    def begin(self, order: FileOrder, descriptors: list[int]) -> None:
        """Carry `order` out, with its pipe if it has one."""
        try:
            if len(self._under_way) == COUNT_MAX:
                raise FileError(FAILED)
            if (begun := self._begun(order, descriptors)) is not None:
                direction = select.POLLIN if isinstance(begun, _Coming) else select.POLLOUT
                self._events.register(begun.pipe, direction)
                self._under_way[begun.pipe] = begun
                return
            self._tell(Closed(order.transfer_id, None))
        except (FileError, OSError, ValueError) as error:
            self._tell(Closed(order.transfer_id, _kind(error)))
        for pipe in descriptors:
            os.close(pipe)

    def on(self, pipe: int) -> bool:
        """Move a part of what goes through `pipe`; False if nothing does."""
        if (transfer := self._under_way.get(pipe)) is None:
            return False
        error: str | None = None
        try:
            if transfer.move():
                return True
            if isinstance(transfer, _Coming):
                entry = transfer.upload.commit()
                self._tell(Found(transfer.transfer_id, entry.size_bytes, entry.modified_s))
        except (FileError, OSError) as failure:
            error = _kind(failure)
        del self._under_way[pipe]
        self._events.unregister(pipe)
        os.close(pipe)
        transfer.close()
        self._tell(Closed(transfer.transfer_id, error))
        return True

    def _begun(self, order: FileOrder, descriptors: list[int]) -> "_Coming | _Going | None":
        match order:
            case Put(transfer_id, path, size_bytes):
                return _Coming(transfer_id, descriptors[0], self._folder.write(path, size_bytes))
            case Get(transfer_id, path, offset):
                file, entry = self._folder.read(path)
                self._tell(Found(transfer_id, entry.size_bytes, entry.modified_s))
                return _Going(transfer_id, descriptors[0], file, offset, entry.size_bytes)
            case List(transfer_id, path, after, count_max):
                entries = self._folder.entries(path, after=after, count_max=count_max)
                listed = json.dumps([astuple(entry) for entry in entries]).encode()
                return _Going(transfer_id, descriptors[0], None, 0, 0, listed)
            case Delete(_, path):
                self._folder.delete(path)
                return None
            case _:
                assert_never(order)


def _kind(error: Exception) -> str:
    return error.kind if isinstance(error, FileError) else FAILED


class _Coming:
    """A file that is put."""

    def __init__(self, transfer_id: int, pipe: int, upload: Upload) -> None:
        self.transfer_id, self.pipe, self.upload = transfer_id, pipe, upload

    def move(self) -> bool:
        """Whether there may be more."""
        try:
            data = os.read(self.pipe, PART_BYTES)
        except BlockingIOError:
            return True
        self.upload.write(data)
        return bool(data)

    def close(self) -> None:
        self.upload.close()


class _Going:
    """A file, from `at` to `end`, or what is `pending` alone."""

    def __init__(
        self, transfer_id: int, pipe: int, file: int | None, at: int, end: int, pending: bytes = b""
    ) -> None:
        self.transfer_id, self.pipe = transfer_id, pipe
        self._file, self._at, self._end = file, at, end
        self._pending = memoryview(pending)

    def move(self) -> bool:
        """Whether there may be more."""
        if not self._pending:
            self._pending = memoryview(self._next())
        if not self._pending:
            return False
        with suppress(BlockingIOError):
            try:
                self._pending = self._pending[os.write(self.pipe, self._pending) :]
            except BrokenPipeError:  # Nobody reads it any more.
                return False
        return True

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)

    def _next(self) -> bytes:
        if self._file is None or self._at >= self._end:
            return b""
        data = os.pread(self._file, min(PART_BYTES, self._end - self._at), self._at)
        self._at += len(data)  # None, if the file has been cut off meanwhile.
        return data
