"""Standard input: what is sent twice is read once, what is missing is missed, and nobody sends without bound."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.sandbox.errors import InputEnded, InputOffsetWrong, QueueFull
from services.sandbox.input import BYTES_MAX, CHUNK_BYTES_MAX, SENDERS_MAX, Input

TIMEOUT_S = 10.0


class Reader:
    """A program that reads when it is told to."""

    def __init__(self) -> None:
        self.read = b""
        self.is_over = False
        self.reads = asyncio.Event()

    async def feed(self, data: bytes, *, end: bool) -> None:
        assert len(data) <= CHUNK_BYTES_MAX
        await self.reads.wait()
        self.read += data
        self.is_over = end


@asynccontextmanager
async def read_by(given: Input) -> AsyncIterator[Reader]:
    reader = Reader()
    task = asyncio.create_task(given.pass_on(reader.feed))
    async with asyncio.timeout(TIMEOUT_S):
        yield reader
    task.cancel()
    await asyncio.wait([task])


async def test_what_is_sent_is_read_in_order_and_to_its_end() -> None:
    given = Input(is_open=True)
    async with read_by(given) as reader:
        reader.reads.set()
        assert await given.add(0, b"ab", end=False) == 2
        assert await given.add(2, b"c", end=True) == 3
        while not reader.is_over:
            await asyncio.sleep(0)
        assert reader.read == b"abc"


async def test_the_end_may_come_alone_and_twice() -> None:
    given = Input(is_open=True)
    async with read_by(given) as reader:
        reader.reads.set()
        await given.add(0, b"a", end=False)
        assert await given.add(1, b"", end=True) == 1
        while not reader.is_over:
            await asyncio.sleep(0)
        assert await given.add(1, b"", end=True) == 1
        assert await given.add(0, b"a", end=True) == 1
        with pytest.raises(InputEnded):
            await given.add(1, b"b", end=False)


async def test_a_gap_is_refused_with_where_it_begins() -> None:
    given = Input(is_open=True)
    await given.add(0, b"abc", end=False)
    with pytest.raises(InputOffsetWrong) as refused:
        await given.add(4, b"e", end=False)
    assert refused.value.facts == {"next_offset": "3"}


async def test_without_open_input_there_is_none_to_send() -> None:
    given = Input(is_open=False)
    with pytest.raises(InputEnded):
        await given.add(0, b"a", end=False)


async def test_after_the_end_only_what_had_arrived_is_accepted_again() -> None:
    given = Input(is_open=True)
    await given.add(0, b"abc", end=False)
    given.close()
    assert await given.add(1, b"bc", end=False) == 3
    for data, end in ((b"d", False), (b"", True)):
        with pytest.raises(InputEnded):
            await given.add(3, data, end=end)


async def test_who_sends_more_than_is_read_waits_and_what_is_given_up_adds_nothing() -> None:
    given = Input(is_open=True)
    async with read_by(given) as reader:
        await given.add(0, bytes(BYTES_MAX), end=False)
        waits, gives_up = (asyncio.create_task(given.add(BYTES_MAX, b"x", end=True)) for _ in range(2))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waits.done()
        gives_up.cancel()
        await asyncio.wait([gives_up])
        assert given.next_offset == BYTES_MAX
        reader.reads.set()
        assert await waits == BYTES_MAX + 1
        while not reader.is_over:
            await asyncio.sleep(0)
        assert len(reader.read) == BYTES_MAX + 1


async def test_only_a_few_may_wait() -> None:
    given = Input(is_open=True)
    await given.add(0, bytes(BYTES_MAX), end=False)
    waiting = [asyncio.create_task(given.add(BYTES_MAX, b"x", end=False)) for _ in range(SENDERS_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await given.add(BYTES_MAX, b"x", end=False)
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    another = asyncio.create_task(given.add(BYTES_MAX, b"x", end=False))
    await asyncio.sleep(0)
    given.close()
    ended = await asyncio.gather(*waiting[1:], another, return_exceptions=True)
    assert {type(each) for each in ended} == {InputEnded}


async def test_who_waits_when_the_program_ends_is_told() -> None:
    given = Input(is_open=True)
    await given.add(0, bytes(BYTES_MAX), end=False)
    waits = asyncio.create_task(given.add(BYTES_MAX, b"x", end=False))
    await asyncio.sleep(0)
    given.close()
    async with asyncio.timeout(TIMEOUT_S):
        with pytest.raises(InputEnded):
            await waits


@settings(deadline=None)  # A busy machine is no failure.
@given(
    whole=st.binary(max_size=300_000),
    calls=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 200_000)), max_size=12),
)
def test_whatever_is_repeated_the_program_reads_the_whole(
    whole: bytes, calls: list[tuple[float, int]]
) -> None:
    async def check() -> None:
        given = Input(is_open=True)
        async with read_by(given) as reader:
            reader.reads.set()
            for part, size in calls:  # From anywhere up to what has arrived.
                offset = int(part * given.next_offset)
                await given.add(offset, whole[offset : offset + size], end=False)
            await given.add(given.next_offset, whole[given.next_offset :], end=True)
            while not reader.is_over:
                await asyncio.sleep(0)
            assert reader.read == whole

    asyncio.run(check())
