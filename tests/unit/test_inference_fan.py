"""One upload for several instances."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.inference.fan import AHEAD_MAX, Copy, fanned_out


async def chunks(count: int, taken: list[int]) -> AsyncIterator[bytes]:
    for number in range(count):
        taken.append(number)
        yield bytes([number])


async def whole(copy: Copy) -> bytes:
    return b"".join([chunk async for chunk in copy])


async def test_all_get_all_of_it() -> None:
    async with fanned_out(chunks(100, []), 3) as copies:
        assert await asyncio.gather(*map(whole, copies)) == [bytes(range(100))] * 3


async def test_no_more_is_taken_than_the_slowest_can_hold() -> None:
    taken: list[int] = []
    async with fanned_out(chunks(100, taken), 2) as (fast, slow):
        reading = asyncio.create_task(whole(fast))
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(taken) <= AHEAD_MAX + 1
        assert await whole(slow) == bytes(range(100))
        assert await reading == bytes(range(100))


async def test_one_that_is_closed_holds_up_nobody() -> None:
    async with fanned_out(chunks(100, []), 2) as (one, other):
        reading = asyncio.create_task(whole(one))
        for _ in range(50):
            await asyncio.sleep(0)
        other.close()
        assert await reading == bytes(range(100))


async def test_how_the_source_fails_they_fail() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"a"
        raise ValueError("broken")

    async with fanned_out(broken(), 2) as copies:
        for copy in copies:
            with pytest.raises(ValueError, match="broken"):
                await whole(copy)


async def test_who_leaves_leaves_nothing_running() -> None:
    taken: list[int] = []
    async with fanned_out(chunks(100, taken), 1):
        await asyncio.sleep(0)
    count = len(taken)
    await asyncio.sleep(0)
    assert len(taken) == count
