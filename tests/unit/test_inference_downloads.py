"""One download, however many watch it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from services.common.errors import MeshError
from services.inference import downloads
from services.inference.core.ledger import Card, Model
from services.inference.downloads import DOWNLOADS_MAX, Done, Downloads, Tell, Told, Watch
from services.inference.errors import InstanceFailed, InstanceLost, ModelNotFound, TooManyPulls
from services.inference.ports import Fault, Progress, Trouble

WITHIN_S = 10.0
MODEL = Model(
    card=Card(name="new:latest"),
    instances=("one",),
    resident_instances=(),
    context_token_count=0,
    need_bytes=0,
    ready=True,
    pinned=False,
)


@dataclass
class Source:
    """An instance's part, by hand."""

    count: int = 0
    cancelled_count: int = 0
    tells: list[Tell] = field(default_factory=list)
    ends: asyncio.Queue[Exception | None] = field(default_factory=asyncio.Queue)

    async def work(self, tell: Tell) -> None:
        self.count += 1
        self.tells.append(tell)
        try:
            if (error := await self.ends.get()) is not None:
                raise error
        except asyncio.CancelledError:
            self.cancelled_count += 1
            raise

    def say(self, count: int) -> None:
        self.tells[-1](Progress(status="pulling", completed_bytes=count))


async def found() -> Model:
    return MODEL


@asynccontextmanager
async def running() -> AsyncIterator[Downloads]:
    made = Downloads()
    task = asyncio.create_task(made.run())
    await asyncio.sleep(0)
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait([task])


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def read(watch: Watch) -> Told | Done | None:
    async with asyncio.timeout(WITHIN_S):
        return await watch.read()


def told(instance: str, count: int) -> Told:
    return Told(instance, Progress(status="pulling", completed_bytes=count))


async def test_a_slow_watcher_is_told_the_newest_of_each_in_turn() -> None:
    one, two = Source(), Source()
    async with running() as made:
        watch = made.watch("new", {"one": one.work, "two": two.work}, found)
        await settled()
        for count in range(1, 1001):
            one.say(count)
        two.say(7)
        assert await read(watch) == told("one", 1000)
        one.say(1001)
        assert await read(watch) == told("two", 7), "nobody is starved"
        assert await read(watch) == told("one", 1001)
        one.ends.put_nowait(None)
        two.ends.put_nowait(None)
        assert await read(watch) == Done(MODEL)
        assert await read(watch) is None


async def test_silence_is_broken_for_those_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "REPEAT_AFTER_S", 0.01)
    one, two = Source(), Source()
    async with running() as made:
        watch = made.watch("new", {"one": one.work, "two": two.work}, found)
        await settled()
        one.say(1)
        for _ in range(3):
            assert await read(watch) == told("one", 1), "the other has not said anything yet"
        one.ends.put_nowait(None)
        two.say(1)
        assert await read(watch) == told("two", 1)


async def test_it_ends_when_the_last_watcher_leaves_and_begins_anew_then() -> None:
    source = Source()
    async with running() as made:
        first = made.watch("new", {"one": source.work}, found)
        second = made.watch("new", {"one": source.work}, found)
        await settled()
        source.say(1)
        first.close()
        first.close()
        await settled()
        assert (source.count, source.cancelled_count) == (1, 0)
        assert await read(second) == told("one", 1)
        second.close()
        third = made.watch("new", {"one": source.work}, found)
        await settled()
        assert (source.count, source.cancelled_count) == (2, 1)
        source.ends.put_nowait(None)
        assert await read(third) == Done(MODEL)
        third.close()
        await settled()
        assert source.cancelled_count == 1


async def test_one_that_is_left_before_its_first_step_never_begins() -> None:
    source = Source()
    async with running() as made:
        made.watch("new", {"one": source.work}, found).close()
        await settled()
        assert source.count == 0
        assert made.watch("new", {"one": source.work}, found)


@pytest.mark.parametrize(
    ("error", "said", "raised"),
    [
        (Trouble(Fault.UNREACHABLE, "x"), 0, InstanceFailed),
        (Trouble(Fault.STALLED, "x"), 1, InstanceLost),
        (ModelNotFound(model="new"), 1, ModelNotFound),
    ],
)
async def test_failures_are_told_when_all_are_done(
    error: Exception, said: int, raised: type[MeshError]
) -> None:
    one, two = Source(), Source()
    async with running() as made:
        watch = made.watch("new", {"one": one.work, "two": two.work}, found)
        await settled()
        for count in range(said):
            one.say(count)
            await read(watch)
        one.ends.put_nowait(error)
        await settled()
        two.say(1)
        assert await read(watch) == told("two", 1)
        two.ends.put_nowait(None)
        with pytest.raises(raised):
            await read(watch)
        assert await read(watch) is None


async def test_downloads_of_an_instance_are_bounded() -> None:
    async with running() as made:
        for number in range(DOWNLOADS_MAX):
            made.watch(f"m{number}", {"one": Source().work}, found)
        made.watch("m0", {"one": Source().work}, found)
        source = Source()
        with pytest.raises(TooManyPulls) as refused:
            made.watch("new", {"two": source.work, "one": source.work}, found)
        assert refused.value.facts == {"instance": "one", "pulls_max": str(DOWNLOADS_MAX)}
        await settled()
        assert source.count == 0
        made.watch("new", {"two": source.work}, found)


async def test_a_bug_costs_its_own_download_and_no_other() -> None:
    broken, fine = Source(), Source()
    async with running() as made:
        watches = [
            made.watch(what, {"one": source.work}, found) for what, source in (("a", broken), ("b", fine))
        ]
        await settled()
        broken.ends.put_nowait(ValueError("a bug"))
        with pytest.raises(InstanceFailed):
            await read(watches[0])
        fine.ends.put_nowait(None)
        assert await read(watches[1]) == Done(MODEL)
