"""Pipes without waiting, on the event loop."""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress

READ_BYTES = 1 << 16  # What a pipe holds.


class Outgoing:
    """What is written goes out as the other side takes it; once nobody reads there any more, it is dropped.

    It keeps whatever is written to it: bound that, or wait for `drained`.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pending = bytearray()
        self._drained = asyncio.Event()
        self._drained.set()
        self._is_open, self._is_ending = True, False

    def write(self, data: bytes) -> None:
        if self._is_open and not self._is_ending:
            self._pending += data
            self._flush()

    def end(self) -> None:
        """Nothing follows: close it when everything is out."""
        self._is_ending = True
        if self._is_open and not self._pending:
            self.close()

    async def drained(self) -> None:
        await self._drained.wait()

    def close(self) -> None:
        """At once. Idempotent."""
        if not self._is_open:
            return
        self._is_open = False
        asyncio.get_running_loop().remove_writer(self._descriptor)
        os.close(self._descriptor)
        self._pending.clear()
        self._drained.set()

    def _flush(self) -> None:
        try:
            with suppress(BlockingIOError):
                while self._pending:
                    del self._pending[: os.write(self._descriptor, self._pending[:READ_BYTES])]
        except BrokenPipeError:
            self.close()
            return
        if self._pending:
            self._drained.clear()
            asyncio.get_running_loop().add_writer(self._descriptor, self._flush)
            return
        asyncio.get_running_loop().remove_writer(self._descriptor)
        self._drained.set()
        if self._is_ending:
            self.close()


class Incoming:
    """Tells `heard` what comes, and b"" at the end, after which it is closed."""

    def __init__(self, descriptor: int, heard: Callable[[bytes], None]) -> None:
        self._descriptor, self._heard = descriptor, heard
        self._is_open = True
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    def take_rest(self) -> None:
        """Take everything that is in it now."""
        while self._read():
            pass

    def close(self) -> None:
        """At once. Idempotent."""
        if self._is_open:
            self._is_open = False
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)

    def _read(self) -> bool:
        """Return whether there may be more."""
        if not self._is_open:
            return False
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self.close()
        self._heard(data)
        return bool(data)
