"""Work that goes on beside a block, for as long as the block lasts."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager


@asynccontextmanager
async def beside(work: Coroutine[object, object, None], *, name: str) -> AsyncIterator[None]:
    """Run `work`, which does not end by itself. A bug in it ends the block too, and is what the block raises.

    As a TaskGroup would, but what the block itself raises comes out as it is.
    """
    block, task = asyncio.current_task(), asyncio.create_task(work, name=name)

    def ended(task: asyncio.Task[None]) -> None:
        if block is not None and not task.cancelled() and task.exception() is not None:
            block.cancel()

    task.add_done_callback(ended)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
