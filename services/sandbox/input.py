"""The standard input of an execution, between its callers' pace and its jail's.

What callers send is addressed by its offset, so that a retry adds nothing twice. It waits here for the program, up to
BYTES_MAX; then callers wait for room, a few of them. A call that is given up has added all of its bytes or none.
"""

import asyncio
from collections.abc import Awaitable
from typing import Protocol

from services.sandbox.errors import InputEnded, InputOffsetWrong, QueueFull

BYTES_MAX = 1 << 20  # The largest call fits.
SENDERS_MAX = 4  # That wait for room: each holds its bytes. One is enough for a caller who sends in order.
CHUNK_BYTES_MAX = 1 << 16  # A pipe holds no more.


class Feed(Protocol):
    def __call__(self, data: bytes, *, end: bool) -> Awaitable[None]: ...


class Input:
    def __init__(self, *, is_open: bool) -> None:
        self.next_offset = 0
        self.is_open = is_open  # At first. Else the program knows of its end by itself.
        self._waiting = bytearray()
        self._senders_count = 0
        self._is_ended = not is_open  # Nothing may follow.
        self._is_closed = False  # Nobody reads it any more.
        self._changed = asyncio.Event()

    async def add(self, offset: int, data: bytes, *, end: bool) -> int:
        """Take in what is new of `data`, once there is room. Return where the next bytes belong.

        Raises InputEnded, InputOffsetWrong, or QueueFull if too many wait for room.
        """
        while True:
            new = data[max(0, self.next_offset - offset) :]
            if not new and offset <= self.next_offset and (self._is_ended or not end):
                return self.next_offset  # A retry of what has arrived, whatever happened since.
            if self._is_ended or self._is_closed:
                raise InputEnded
            if offset > self.next_offset:
                raise InputOffsetWrong(next_offset=self.next_offset)
            if len(self._waiting) + len(new) <= BYTES_MAX:
                break
            await self._room()
        self._waiting += new
        self.next_offset += len(new)
        self._is_ended = end
        self._tell()
        return self.next_offset

    async def pass_on(self, feed: Feed) -> None:
        """Feed the program until the input, which was open, ends."""
        is_over = False
        while not is_over:
            while not self._waiting and not self._is_ended:
                await self._changed.wait()
            chunk = bytes(self._waiting[:CHUNK_BYTES_MAX])
            is_over = self._is_ended and len(chunk) == len(self._waiting)
            await feed(chunk, end=is_over)
            del self._waiting[: len(chunk)]
            self._tell()

    async def _room(self) -> None:
        """Return when there may be some."""
        if self._senders_count >= SENDERS_MAX:
            raise QueueFull(waiting_max=SENDERS_MAX)
        self._senders_count += 1
        try:
            await self._changed.wait()
        finally:
            self._senders_count -= 1

    def close(self) -> None:
        """The program has ended."""
        self._is_closed = True
        self._waiting.clear()
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
