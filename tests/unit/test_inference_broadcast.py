"""Whoever reads a stream, whenever and from wherever they come, gets the same bytes; who cannot is told why."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from services.common.errors import MeshError
from services.inference.broadcast import Broadcast, Reader
from services.inference.completion import Bounds, Completion, Event, Opened, Started
from services.inference.errors import InstanceLost, ReaderTooSlow, StreamExpired
from services.inference.frame_log import FrameLog
from services.inference.ports import EndReason, Outcome, Piece
from services.inference.wire.frames import frame
from services.inference.wire.told import told

STARTED = Started(model="tiny:latest", model_digest="sha256:1", instance="gpu")
OUTCOME = Outcome(reason=EndReason.STOP, prompt_token_count=3, output_token_count=2)
TURNS = 4  # Of the loop, after which whoever can go on has.


class Reading:
    """A task that reads on, as a call does, until it is told to stop."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.after = reader.position
        self.frames: list[bytes] = []
        self.failure: MeshError | None = None
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.task = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        try:
            while (one := await self.reader.read()) is not None:
                self.frames.append(one)
                await self.may_read.wait()
        except MeshError as error:
            self.failure = error


class Interleaving(RuleBasedStateMachine):
    """One writer, the keeper that pulls, and readers who come and go, read and stall, from anywhere on."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.told: list[bytes] = []
        self.written = ""
        self.readings: list[Reading] = []
        self.over = False

    @initialize(by_token=st.booleans())
    def open(self, *, by_token: bool) -> None:
        def seal(event: Event) -> bytes:
            self.told.append(frame(event))
            return self.told[-1]

        async def opened() -> Completion:
            return Completion(
                Opened("s"),
                seal=seal,
                opened_at_s=0.0,
                bounds=Bounds(log_bytes_max=1 << 20, lag_bytes_max=1 << 20),
                by_token=by_token,
            )

        self.completion = self.loop.run_until_complete(opened())
        self.completion.lingers = True

    @rule(text=st.text(max_size=4), thinking=st.text(max_size=2))
    def write(self, text: str, thinking: str) -> None:
        if not self.over:
            self._in_loop(lambda: self.completion.place(STARTED, now_s=0.0))
            self._in_loop(lambda: self.completion.write(Piece(text=text, thinking=thinking, token_count=1)))
            self.written += text

    @rule(ahead_count=st.integers(0, 5))
    def queue(self, ahead_count: int) -> None:
        self._in_loop(lambda: self.completion.queue(ahead_count, wait_s=1.0))

    @rule()
    def keep(self) -> None:
        while self.completion.pull():
            pass
        self.completion.look()

    @rule(share=st.floats(0, 1.5))
    def come(self, share: float) -> None:
        """At any place, also at one that only another replica has told."""
        after = int(share * len(self.told))
        self._in_loop(lambda: self.readings.append(Reading(self.completion.reader("s", after=after))))

    @rule(place=st.integers(0, 20))
    def leave(self, place: int) -> None:
        if self.readings:
            reading = self.readings.pop(place % len(self.readings))
            reading.reader.close()
            self._cancel(reading)

    @rule(place=st.integers(0, 20))
    def stall_or_go_on(self, place: int) -> None:
        if self.readings:
            stalls = self.readings[place % len(self.readings)].may_read
            stalls.clear() if stalls.is_set() else stalls.set()

    @rule()
    def turn(self) -> None:
        self._in_loop(lambda: None)

    @rule()
    def finish(self) -> None:
        if not self.over:
            self.over = True
            self._in_loop(lambda: self.completion.place(STARTED, now_s=0.0))
            self._in_loop(lambda: self.completion.finish(OUTCOME))

    @invariant()
    def everybody_has_read_the_same(self) -> None:
        for reading in self.readings:
            assert reading.frames == self.told[reading.after :][: len(reading.frames)]
            assert reading.failure is None

    def teardown(self) -> None:
        self.finish()
        for reading in self.readings:
            reading.may_read.set()
        self.come(0.0)
        self._in_loop(lambda: None, turns=TURNS * (len(self.told) + 8))
        for reading in self.readings:
            assert reading.task.done()
            assert reading.failure is None
            assert reading.frames == self.told[reading.after :]
        log = FrameLog(bytes_max=1 << 20)
        for one in self.told:
            log.append(one)
        assert told(log).text == self.written
        self.loop.close()

    def _in_loop(self, work: object, *, turns: int = TURNS) -> None:
        async def worked() -> None:
            work()  # type: ignore[operator]
            for _ in range(turns):
                await asyncio.sleep(0)

        self.loop.run_until_complete(worked())

    def _cancel(self, reading: Reading) -> None:
        reading.task.cancel()
        self._in_loop(lambda: None)


Interleaving.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestInterleaving = Interleaving.TestCase


@given(
    sizes=st.lists(st.integers(0, 30), max_size=40),
    bytes_max=st.integers(1, 200),
    number=st.integers(0, 45),
    part_bytes=st.integers(0, 60),
)
def test_a_log_is_the_end_of_what_was_appended(
    sizes: list[int], bytes_max: int, number: int, part_bytes: int
) -> None:
    log, frames = (
        FrameLog(bytes_max=bytes_max),
        [bytes([place % 256]) * size for place, size in enumerate(sizes)],
    )
    for one in frames:
        log.append(one)
    assert log.last == len(frames)
    assert [log.frame(each) for each in range(log.first, log.last + 1)] == frames[log.first - 1 :]
    assert all(log.frame(each) is None for each in range(1, log.first))
    assert log.held_bytes <= max(bytes_max, *sizes, 0) if sizes else True
    assert log.after(number) == frames[max(number, log.first - 1) :]
    assert log.bytes_after(number) >= sum(map(len, log.after(number)))
    part = log.after(number, bytes_max=part_bytes)
    assert part == log.after(number)[: len(part)]
    assert len(part) <= 1 or sum(map(len, part)) <= part_bytes
    assert bool(part) == bool(log.after(number))
    log.cut(number)
    assert log.after(0) == frames[log.first - 1 : max(number, log.first - 1)]
    log.append(b"")
    assert log.frame(log.last) == b""


def broadcast(*, bytes_max: int = 4000, lag_bytes_max: int = 1000) -> Broadcast:
    return Broadcast(bytes_max=bytes_max, lag_bytes_max=lag_bytes_max)


def append(source: Broadcast, count: int, *, size: int = 100) -> None:
    for number in range(count):
        source.append(bytes([number % 256]) * size)
        source.look()


async def failure_of(reader: Reader) -> MeshError:
    try:
        while await reader.read() is not None:
            pass
    except MeshError as error:
        return error
    raise AssertionError("it ended well")


async def test_who_is_too_slow_is_ended_and_the_others_go_on() -> None:
    source = broadcast()
    slow, fast = source.reader("slow"), source.reader("fast")
    for _ in range(100):
        append(source, 1)
        assert await fast.read() is not None
    source.end(None)
    assert await fast.read() is None
    error = await failure_of(slow)
    assert (type(error), error.facts["stream_id"]) == (ReaderTooSlow, "slow"), "whatever was forgotten since"


async def test_who_reads_again_from_far_back_is_not_slow_for_that() -> None:
    source = broadcast(bytes_max=1 << 20)
    append(source, 100)
    late = source.reader("late")
    append(source, 5)
    assert not late.failed, "what was there before it came is no lag of its own"
    append(source, 20)
    assert late.failed, "but what has come since is"


async def test_what_is_kept_no_longer_is_said_to_be() -> None:
    source = broadcast()
    append(source, 100)
    assert type(await failure_of(source.reader("late"))) is StreamExpired
    assert await source.reader("later", after=source.log.first).read() is not None


async def test_who_has_read_further_elsewhere_waits_for_what_they_have_not() -> None:
    """At another replica, which had it all sooner."""

    class Slow(Broadcast):
        """Tells one frame whenever a reader asks."""

        def pull(self) -> bool:
            if self.log.last < 5:
                self.append(b"%d" % (self.log.last + 1))
                return True
            return False

    reader = Slow(bytes_max=4000, lag_bytes_max=1000).reader("s", after=3)
    assert await reader.read() == b"4"


@asynccontextmanager
async def reading(source: Broadcast, *, after: int) -> AsyncIterator[asyncio.Task[bytes | None]]:
    task = asyncio.get_running_loop().create_task(source.reader("s", after=after).read())
    await asyncio.sleep(0)
    yield task
    assert task.done()


async def test_who_has_read_what_another_told_otherwise_cannot_go_on() -> None:
    source = broadcast()
    append(source, 3)
    known = source.reader("known", after=3)
    async with reading(source, after=4) as further:
        source.tell_anew(source.log.last)
        append(source, 5)
        with pytest.raises(InstanceLost) as lost:
            await further
    assert lost.value.facts == {"stream_id": "s", "last_sequence": "4"}
    with pytest.raises(InstanceLost):
        await source.reader("later", after=4).read()
    assert await known.read() is not None


async def test_who_lets_it_go_on_without_a_reader_has_its_log_bounded() -> None:
    completion = Completion(
        Opened("s"),
        seal=frame,
        opened_at_s=0.0,
        bounds=Bounds(log_bytes_max=4000, lag_bytes_max=1000),
    )
    completion.place(STARTED, now_s=0.0)
    completion.lingers = True
    for _ in range(200):
        assert completion.write(Piece(text="x" * 100, token_count=1))
    assert completion.log.held_bytes <= 4000
    completion.lingers = False
    while completion.write(Piece(text="x" * 100, token_count=1)):
        pass
    assert isinstance(completion.failure, ReaderTooSlow), "nobody reads it, and nobody will"
