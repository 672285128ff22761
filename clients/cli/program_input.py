"""What a program in the sandbox reads: a file at once, or a pipe or terminal as it goes on."""

import asyncio
import io
import os
import stat
from collections.abc import AsyncGenerator
from typing import BinaryIO

STDIN_BYTES_MAX = 1 << 20  # As much goes with the program; what is more follows it.
READ_BYTES_MAX = 1 << 16


def input_of(file: BinaryIO) -> bytes | AsyncGenerator[bytes, None]:
    """All of a small file, or pieces of anything else. Only inside a running loop."""
    if (descriptor := _endless(file)) is not None:
        return _as_it_comes(descriptor)
    beginning = file.read(STDIN_BYTES_MAX)
    return beginning if len(beginning) < STDIN_BYTES_MAX else _whole(beginning, file)


def _endless(file: BinaryIO) -> int | None:
    """The descriptor of what may keep a reader waiting."""
    try:
        mode = os.fstat(file.fileno()).st_mode
    except io.UnsupportedOperation:
        return None
    waits = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or file.isatty()
    return file.fileno() if waits else None


async def _as_it_comes(descriptor: int) -> AsyncGenerator[bytes, None]:
    """Read no earlier than somebody asks. No thread waits in a read, which nothing could end."""
    loop = asyncio.get_running_loop()
    while True:
        ready = asyncio.Event()
        loop.add_reader(descriptor, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(descriptor)
        if not (data := _read(descriptor)):
            return
        yield data


def _read(descriptor: int) -> bytes:
    """What there is; empty at the end, or if the terminal is gone."""
    try:
        return os.read(descriptor, READ_BYTES_MAX)
    except OSError:
        return b""


async def _whole(beginning: bytes, file: BinaryIO) -> AsyncGenerator[bytes, None]:
    yield beginning
    while data := await asyncio.to_thread(file.read, READ_BYTES_MAX):
        yield data
