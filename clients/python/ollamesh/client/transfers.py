"""Files on their way into a session and out of it, in pieces."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from pathlib import Path

from ollamesh.sandbox.v1.sandbox_service_pb2 import PutFileRequest

PIECE_BYTES_MAX = 1 << 18

# What a file may be made of.
Content = bytes | Path | Iterable[bytes] | AsyncIterable[bytes]


async def parts_of(
    session_id: str, path: str, content: Content, size_bytes: int | None
) -> AsyncGenerator[PutFileRequest, None]:
    """The messages that put a file. Raises OSError if a Path cannot be read."""
    size, pieces = await _opened(content, size_bytes)
    header = PutFileRequest.Header(session_id=session_id, path=path, size_bytes=size)
    yield PutFileRequest(header=header)
    async for piece in pieces:
        for start in range(0, len(piece), PIECE_BYTES_MAX):
            yield PutFileRequest(chunk=piece[start : start + PIECE_BYTES_MAX])


def require_size(content: Content, size_bytes: int | None) -> None:
    """Raise ValueError if nobody can know how much `content` is."""
    if size_bytes is None and not isinstance(content, bytes | Path):
        raise ValueError("of an iterator, size_bytes must be given: the service is told it first")


async def write(pieces: AsyncIterable[bytes], to: Path) -> None:
    """Make `to`, whole or not at all."""
    unfinished = to.with_name(f".{to.name}.{os.urandom(4).hex()}.unfinished")
    try:
        file = await asyncio.to_thread(unfinished.open, "xb")
        with file:
            async for piece in pieces:
                await asyncio.to_thread(file.write, piece)
        unfinished.replace(to)
    finally:
        unfinished.unlink(missing_ok=True)


async def _opened(content: Content, size_bytes: int | None) -> tuple[int, AsyncIterable[bytes]]:
    match content:
        case bytes():
            return len(content), _from((content,))
        case Path():
            size = (await asyncio.to_thread(content.stat)).st_size
            return size, _read(content, size)
        case AsyncIterable():
            return size_bytes or 0, content
        case _:
            return size_bytes or 0, _from(content)


async def _from(pieces: Iterable[bytes]) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        yield piece


async def _read(path: Path, size_bytes: int) -> AsyncGenerator[bytes, None]:
    """As much as was told, though the file may grow meanwhile."""
    with await asyncio.to_thread(path.open, "rb") as file:
        left_bytes = size_bytes
        while left_bytes and (piece := await asyncio.to_thread(file.read, min(left_bytes, PIECE_BYTES_MAX))):
            left_bytes -= len(piece)
            yield piece
