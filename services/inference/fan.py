"""One stream of bytes for several takers, at the pace of the slowest, held once."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Self

AHEAD_MAX = 4  # Chunks that a taker may be behind.


class Copy:
    """One taker's. Whoever has it must close it, or all the others wait."""

    def __init__(self) -> None:
        self._queue = asyncio.Queue[bytes | Exception | None](AHEAD_MAX)
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        match await self._queue.get():
            case None:
                raise StopAsyncIteration
            case Exception() as error:
                raise error
            case chunk:
                return chunk

    async def give(self, piece: bytes | Exception | None) -> None:
        if not self._closed:
            await self._queue.put(piece)

    def close(self) -> None:
        """Take no more. Idempotent."""
        self._closed = True
        while not self._queue.empty():  # Whoever waits to give more may go on.
            self._queue.get_nowait()


@asynccontextmanager
async def fanned_out(chunks: AsyncIterable[bytes], count: int) -> AsyncIterator[Sequence[Copy]]:
    """Yield so many copies of a stream. How it fails, they fail."""
    copies = [Copy() for _ in range(count)]

    async def give(piece: bytes | Exception | None) -> None:
        for copy in copies:
            await copy.give(piece)

    async def give_all() -> None:
        try:
            async for chunk in chunks:
                await give(chunk)
            await give(None)
        except Exception as error:  # noqa: BLE001 - Whoever takes raises it.
            await give(error)

    giving = asyncio.ensure_future(give_all())
    try:
        yield copies
    finally:
        giving.cancel()
        await asyncio.wait([giving])
