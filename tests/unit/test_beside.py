"""Work beside a block: it ends with the block, and the block with it when it fails."""

import asyncio

import pytest

from services.common.beside import beside


async def test_it_ends_with_the_block() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with beside(work(), name="work"):
        await asyncio.sleep(0)
    assert ended.is_set()


async def test_what_the_block_raises_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError):
        async with beside(asyncio.Event().wait(), name="work"):  # type: ignore[arg-type]
            raise KeyError


async def test_its_bug_ends_the_block() -> None:
    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with beside(work(), name="work"):
            await asyncio.Event().wait()


async def test_a_block_that_is_cancelled_is_cancelled() -> None:
    async def block() -> None:
        async with beside(asyncio.Event().wait(), name="work"):  # type: ignore[arg-type]
            await asyncio.Event().wait()

    task = asyncio.create_task(block())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
