"""Wishes, and what becomes of those who wait for them: here, and from a worker."""

import asyncio

import pytest

from services.common.errors import MeshError
from services.inference.core.ledger import InstanceView, Resident
from services.inference.errors import InstanceFailed, ModelTooLarge, NoInstance, QueueFull
from services.inference.processes import far_keeper
from services.inference.processes import messages as told
from services.inference.processes.far_keeper import FarKeeper, Keeping
from tests.unit.engine_rig import BROKEN, REPORT, FakeInstance, Rig, running, until

TINY = "tiny:latest"


def see(rig: Rig, *residents: str, ready: bool = True) -> None:
    report = type(REPORT)(cards=REPORT.cards, residents=tuple(Resident(name=name) for name in residents))
    now_s = asyncio.get_running_loop().time()
    unready_reason = "" if ready else "away"
    rig.engine.observe(
        InstanceView(name="gpu-0", slots=1, report=report, asked_at_s=now_s, unready_reason=unready_reason)
    )


def is_pinned(rig: Rig) -> bool:
    return TINY in rig.ledger.view("gpu-0").wishes.pinned


async def test_a_load_is_carried_out_once_for_all_who_want_it() -> None:
    instance = FakeInstance()
    async with running(instance) as rig:
        keeper = rig.engine.keeper
        found = await asyncio.gather(*(keeper.load(TINY, "", pin=pin) for pin in (False, True, False)))
        assert (found, instance.load_count) == (["gpu-0"] * 3, 1)
        assert is_pinned(rig)
        await keeper.load(TINY, "gpu-0", pin=False)
        assert instance.load_count == 2, "it is told how long to keep it"
        assert is_pinned(rig), "only an unload unpins"


async def test_a_load_that_fails_pins_nothing_and_is_not_repeated() -> None:
    instance = FakeInstance(load_failure=BROKEN)
    async with running(instance) as rig:
        with pytest.raises(InstanceFailed):
            await rig.engine.keeper.load(TINY, "", pin=True)
        see(rig)
        assert not is_pinned(rig)
        assert instance.load_count == 1


async def test_a_touch_that_fails_pins_nothing() -> None:
    instance = FakeInstance()
    async with running(instance) as rig:
        await rig.engine.keeper.load(TINY, "", pin=False)
        instance.load_failure = BROKEN
        with pytest.raises(InstanceFailed):
            await rig.engine.keeper.load(TINY, "", pin=True)
        assert not is_pinned(rig)


async def test_who_leaves_does_not_take_away_what_others_pin() -> None:
    async with running(FakeInstance()) as rig:
        keeper = rig.engine.keeper
        first, second = (asyncio.create_task(keeper.load(TINY, "", pin=True)) for _ in range(2))
        await asyncio.sleep(0)  # Both wait now.
        assert first.cancel()
        assert await second == "gpu-0"
        assert first.cancelled()
        assert is_pinned(rig)


async def test_when_all_have_left_nothing_is_pinned() -> None:
    async with running(FakeInstance()) as rig:
        keeper = rig.engine.keeper
        waiting = [asyncio.create_task(keeper.load(TINY, "", pin=True)) for _ in range(2)]
        await asyncio.sleep(0)
        for task in waiting:
            assert task.cancel()
        await asyncio.wait(waiting)
        see(rig)
        assert not is_pinned(rig)


async def test_the_last_word_counts() -> None:
    instance = FakeInstance()
    async with running(instance) as rig:
        see(rig, "tiny")
        rig.open()
        await rig.until_busy(1)
        unloading = asyncio.create_task(rig.engine.keeper.unload(TINY, ""))
        await until(lambda: TINY in rig.ledger.view("gpu-0").wishes.unloads)
        assert await rig.engine.keeper.load(TINY, "", pin=True) == "gpu-0"
        with pytest.raises(InstanceFailed):
            await unloading
        assert is_pinned(rig)
        assert instance.unload_count == 0


async def test_what_happened_otherwise_counts_as_done() -> None:
    instance = FakeInstance()
    async with running(instance) as rig:
        see(rig, "tiny")
        ticket, _ = rig.open()
        await rig.until_busy(1)
        unloading = asyncio.create_task(rig.engine.keeper.unload(TINY, ""))
        await until(lambda: TINY in rig.ledger.view("gpu-0").wishes.unloads)
        see(rig, "tiny", ready=False)  # It is started anew, and has forgotten everything.
        instance.may_stop.set()
        instance.may_answer_probes.set()
        rig.engine.abandon(ticket)
        await rig.until_busy(0)
        see(rig)
        await unloading
        assert instance.unload_count == 0


async def test_an_instance_that_is_away_cannot_be_told() -> None:
    async with running(FakeInstance()) as rig:
        see(rig, "tiny")
        see(rig, "tiny", ready=False)
        with pytest.raises(InstanceFailed):
            await rig.engine.keeper.unload(TINY, "")
        see(rig, "tiny")
        assert not rig.ledger.view("gpu-0").wishes.unloads


async def test_nobody_can_load_what_no_ready_instance_has() -> None:
    async with running(FakeInstance()) as rig:
        with pytest.raises(NoInstance):
            await rig.engine.keeper.load("other:latest", "", pin=False)
        see(rig, ready=False)
        with pytest.raises(NoInstance):
            await rig.engine.keeper.load(TINY, "", pin=False)
        await rig.engine.keeper.unload(TINY, "")


async def test_what_is_kept_out_is_let_in_in_the_end() -> None:
    async with running(FakeInstance()) as rig:
        await rig.engine.keeper.unload(TINY, "", keep_out_s=60.0)
        assert rig.ledger.view("gpu-0").wishes.unloads == {TINY}
        await rig.engine.keeper.unload(TINY, "")
        assert not rig.ledger.view("gpu-0").wishes.unloads
        await rig.engine.keeper.unload(TINY, "", keep_out_s=0.001)
        await until(lambda: not rig.ledger.view("gpu-0").wishes.unloads)


# From a worker


class Sent(list[told.FromWorker | told.FromHead]):
    def __call__(self, message: told.FromWorker | told.FromHead, /) -> None:
        self.append(message)


class ScriptedKeeper:
    def __init__(self, outcome: Exception | None) -> None:
        self.outcome = outcome
        self.may_end = asyncio.Event()
        self.left = False
        self.doubted: list[str] = []

    def doubt(self, instance: str) -> None:
        self.doubted.append(instance)

    async def load(self, model: str, instance: str, *, pin: bool) -> str:
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.left = True
            raise
        if self.outcome is not None:
            raise self.outcome
        return "gpu-0"

    async def unload(self, model: str, instance: str, *, keep_out_s: float = 0.0) -> None:
        await self.load(model, instance, pin=False)


@pytest.mark.parametrize(
    ("outcome", "raised"),
    [
        (None, None),
        (ModelTooLarge(model="a", needed_bytes=2, available_bytes=1), ModelTooLarge),
        (ValueError("a bug"), RuntimeError),
    ],
)
async def test_a_worker_hears_what_came_of_it(
    outcome: Exception | None, raised: type[Exception] | None
) -> None:
    sent, answers, keeper = Sent(), Sent(), ScriptedKeeper(outcome)
    far, near = FarKeeper(sent), Keeping(keeper, answers)
    asking = asyncio.create_task(far.load("a", "", pin=True))
    await until(lambda: bool(sent))
    keep = sent[0]
    assert isinstance(keep, told.Keep)
    near.take(keep)
    keeper.may_end.set()
    await until(lambda: bool(answers))
    kept = answers[0]
    assert isinstance(kept, told.Kept)
    far.take(kept)
    if raised is None:
        assert await asking == "gpu-0"
    else:
        with pytest.raises(raised) as failed:
            await asking
        if isinstance(failed.value, MeshError) and isinstance(outcome, MeshError):
            assert failed.value.facts == outcome.facts


async def test_who_leaves_a_worker_is_wanted_nothing_for() -> None:
    sent, keeper = Sent(), ScriptedKeeper(None)
    far, near = FarKeeper(sent), Keeping(keeper, Sent())
    asking = asyncio.create_task(far.unload("a", ""))
    await until(lambda: bool(sent))
    assert isinstance(sent[0], told.Keep)
    near.take(sent[0])
    await asyncio.sleep(0)
    asking.cancel()
    await until(lambda: len(sent) == 2)
    assert isinstance(sent[1], told.Forgo)
    near.take(sent[1])
    await until(lambda: keeper.left)
    far.take(told.Kept(number=1, instance="", wrong=None))  # It came too late, and nobody asks.
    near.take(told.Forgo(number=7))


async def test_with_a_worker_go_its_wishes() -> None:
    keeper = ScriptedKeeper(None)
    near = Keeping(keeper, Sent())
    near.take(told.Keep(number=1, unload=False, model="a", instance=""))
    near.take(told.Doubt(instance="gpu-0"))
    await asyncio.sleep(0)
    near.end()
    await until(lambda: keeper.left)
    assert keeper.doubted == ["gpu-0"]


async def test_what_a_worker_may_want_at_once_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(far_keeper, "KEEPING_MAX", 1)
    sent = Sent()
    far = FarKeeper(sent)
    asking = asyncio.create_task(far.load("a", "", pin=False))
    await until(lambda: bool(sent))
    with pytest.raises(QueueFull):
        await far.load("b", "", pin=False)
    asking.cancel()
