"""The service's ends of what a program reads and writes."""

import asyncio
import fcntl
import os
from contextlib import ExitStack

from services.sandbox.ports import Program, Stream, Write

READ_BYTES = 1 << 16  # What a pipe holds.
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class Input:
    """A standard input that stays open: the bytes that were there at the start, and then those of one call of `feed`.

    It waits for the program to read, and drops what the program will not read any more.
    """

    def __init__(self, descriptor: int, data: bytes) -> None:
        """`descriptor` is the writing end of a pipe, does not block, and is closed here."""
        self._descriptor: int | None = descriptor
        self._rest = memoryview(data)
        self._turn = asyncio.Lock()
        self._sent = asyncio.Event()
        self._push()

    async def feed(self, data: bytes, *, end: bool) -> None:
        async with self._turn:
            await self._sent.wait()
            if self._descriptor is None:
                return
            self._rest = memoryview(data)
            self._push()
            try:
                await self._sent.wait()
            finally:
                self._rest = memoryview(b"")  # Of a call that is cancelled, nothing more is passed on.
            if end:
                self.close()

    def close(self) -> None:
        """Nothing follows. Idempotent."""
        self._rest = memoryview(b"")
        self._sent.set()
        if self._descriptor is not None:
            asyncio.get_running_loop().remove_writer(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _push(self) -> None:
        """Pass on what the pipe takes, and see to it that the rest follows."""
        assert self._descriptor is not None
        try:
            while self._rest:
                self._rest = self._rest[os.write(self._descriptor, self._rest) :]
        except BlockingIOError:
            self._sent.clear()
            asyncio.get_running_loop().add_writer(self._descriptor, self._push)
        except BrokenPipeError:  # Nobody reads it any more.
            self.close()
        else:
            self._sent.set()
            asyncio.get_running_loop().remove_writer(self._descriptor)


class Streams:
    """All of one program's. Its output is read as it comes; once nobody can write any more, `drain` reads the rest."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._input: Input | None = None
        self._outputs: dict[int, Stream] = {}

    def connect(self, program: Program, theirs: ExitStack) -> list[int]:
        """Return the program's ends: code, standard input, and an output for each Stream. Raises OSError."""
        code = _in_memory(program.code, theirs)
        stdin = (
            self._open_input(program.stdin, theirs)
            if program.stdin_open
            else _in_memory(program.stdin, theirs)
        )
        return [code, stdin, *(self._open_output(stream, theirs) for stream in Stream)]

    async def feed(self, data: bytes, *, end: bool) -> None:
        if self._input is not None:
            await self._input.feed(data, end=end)

    def drain(self) -> None:
        """Read what is left, and close everything."""
        for pipe in list(self._outputs):
            while self._take(pipe):
                pass
        self.close()

    def close(self) -> None:
        """Idempotent."""
        if self._input is not None:
            self._input.close()
        for pipe in list(self._outputs):
            self._close(pipe)

    def _open_input(self, data: bytes, theirs: ExitStack) -> int:
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        theirs.callback(os.close, reading)
        os.set_blocking(reading, True)
        self._input = Input(writing, data)
        return reading

    def _open_output(self, stream: Stream, theirs: ExitStack) -> int:
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        theirs.callback(os.close, writing)
        os.set_blocking(writing, True)
        self._outputs[reading] = stream
        asyncio.get_running_loop().add_reader(reading, self._read, reading)
        return writing

    def _read(self, pipe: int) -> None:
        if self._outputs[pipe] is Stream.RESULTS:  # What was printed before a result comes before it.
            for other, stream in list(self._outputs.items()):
                if stream is not Stream.RESULTS:
                    self._take(other)
        self._take(pipe)

    def _take(self, pipe: int) -> bool:
        """Take what a pipe holds, and close it at its end. Return whether there may be more."""
        try:
            data = os.read(pipe, READ_BYTES)
        except BlockingIOError:
            return False
        if data:
            self._write(self._outputs[pipe], data)
            return True
        self._close(pipe)
        return False

    def _close(self, pipe: int) -> None:
        asyncio.get_running_loop().remove_reader(pipe)
        del self._outputs[pipe]
        os.close(pipe)


def _in_memory(data: bytes, until: ExitStack) -> int:
    """A file with `data`, open at its beginning, that nobody can change."""
    descriptor = os.memfd_create("program", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    until.callback(os.close, descriptor)
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor
