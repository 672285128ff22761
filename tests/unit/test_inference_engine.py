"""The engine with instances that do as the port allows: slow to stop, wrong in every way, or full of bugs."""

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest

from services.inference.core.jobs import Job
from services.inference.core.scheduler import Scheduler
from services.inference.errors import InstanceFailed, TimeExceeded
from services.inference.ports import Fault, Trouble
from tests.unit.engine_rig import FakeInstance, Rig, running, until, whole


async def test_a_slot_is_busy_until_its_instance_has_really_stopped() -> None:
    instance = FakeInstance()
    async with running(instance) as rig:
        first, _ = rig.open()
        await until(lambda: instance.running_count == 1)
        rig.engine.abandon(first)
        second, _ = rig.open()
        for _ in range(20):
            await asyncio.sleep(0)
        assert instance.running_count_max == 1
        assert rig.engine.queues()["tiny:latest"][0].ticket == second
        instance.may_stop.set()
        instance.may_answer_probes.set()
        await until(lambda: not rig.engine.queues())
        assert instance.running_count_max == 1


async def test_who_has_its_answer_does_not_cut_off_the_end_of_the_exchange() -> None:
    """The reader leaves when it has `Finished`; the connection is worth keeping."""
    instance = FakeInstance(answers=True)
    async with running(instance) as rig:
        ticket, completion = rig.open()
        await until(lambda: completion.ending is not None)
        rig.engine.abandon(ticket)
        await asyncio.sleep(0)
        assert instance.running_count == 1
        instance.may_stop.set()
        await rig.until_busy(0)


async def test_leaving_before_the_first_step_of_the_work_frees_the_slot() -> None:
    instance = FakeInstance()
    async with running(instance) as rig:
        ticket, _ = rig.open()
        await rig.until_busy(1)
        assert instance.running_count == 0
        rig.engine.abandon(ticket)
        rig.engine.abandon(ticket)
        instance.may_stop.set()
        await rig.until_busy(0)


@pytest.mark.parametrize("failure", [ValueError("a bug"), Trouble(Fault.BROKEN, "it said so")])
async def test_a_failure_ends_its_own_call_and_no_other(failure: Exception) -> None:
    instance = FakeInstance(failure=failure)
    instance.may_stop.set()
    async with running(instance) as rig:
        _, completion = rig.open()
        with pytest.raises(InstanceFailed if isinstance(failure, Trouble) else ValueError):
            await whole(completion)
        instance.failure, instance.answers = None, True
        _, completion = rig.open()
        await whole(completion)
        await rig.until_busy(0)


async def test_what_comes_back_may_wait_for_as_long_as_it_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may fail long after the time in which it had to start."""
    submitted: list[Job] = []
    submit = Scheduler.submit

    def noted(scheduler: Scheduler, job: Job, now_s: float) -> None:
        submitted.append(job)
        submit(scheduler, job, now_s)

    monkeypatch.setattr(Scheduler, "submit", noted)
    failing = [FakeInstance(failure=Trouble(Fault.STALLED, "silent")) for _ in range(2)]
    for instance in failing:
        instance.may_stop.set()
    async with running(*failing) as rig:
        _, completion = rig.open(total_max_s=600.0)
        with pytest.raises(InstanceFailed):
            await whole(completion)
    first, again = submitted
    assert first.expires_at_s < first.deadline_at_s
    assert again.expires_at_s == again.deadline_at_s == first.deadline_at_s


async def test_who_has_left_is_not_tried_again_elsewhere() -> None:
    """Even if the instance answers the cancellation with a failure."""
    instance, other = FakeInstance(fails_when_stopped=True), FakeInstance()
    async with running(instance, other) as rig:
        ticket, _ = rig.open()
        await until(lambda: instance.running_count == 1)
        rig.engine.abandon(ticket)
        instance.may_stop.set()
        await until(lambda: instance.running_count == 0)
        await rig.until_busy(0)
        assert other.running_count_max == 0
        assert not rig.engine.queues()


async def test_a_slot_whose_instance_may_be_reading_on_is_busy_until_it_answers() -> None:
    """Even if the time that the caller had, who has left, is up meanwhile."""
    instance = FakeInstance()
    instance.may_stop.set()
    async with running(instance) as rig:
        ticket, _ = rig.open(total_max_s=0.1)
        await until(lambda: instance.running_count == 1)
        rig.engine.abandon(ticket)
        await until(lambda: instance.probe_count == 1)
        second, _ = rig.open()
        await asyncio.sleep(0.1)  # To a later time than the first one's last.
        assert instance.running_count == 0
        assert rig.engine.queues()["tiny:latest"][0].ticket == second
        instance.may_answer_probes.set()
        await until(lambda: instance.running_count == 1)


async def test_who_runs_out_of_time_is_told_and_the_slot_waits_for_the_instance() -> None:
    instance = FakeInstance()
    async with running(instance) as rig:
        _, completion = rig.open(total_max_s=0.05)
        await until(lambda: instance.running_count == 1)
        with pytest.raises(TimeExceeded):
            await whole(completion)
        await rig.until_busy(1)
        instance.may_stop.set()
        await until(lambda: instance.probe_count == 1)
        await rig.until_busy(1)
        instance.may_answer_probes.set()
        await rig.until_busy(0)


async def loaded(rig: Rig) -> None:
    """Have the model in memory, and nothing to do."""
    _, completion = rig.open()
    await until(lambda: completion.ending is not None and not rig.engine.busy("gpu-0"))


async def test_who_is_first_is_placed_within_the_submission() -> None:
    instance = FakeInstance(answers=True)
    instance.may_stop.set()
    async with running(instance) as rig:
        await loaded(rig)
        instance.answers = False
        rig.open()
        assert sum(rig.engine.busy("gpu-0").values()) == 1
        rig.open()  # There is one slot.
        assert [len(line) for line in rig.engine.queues().values()] == [1]


async def test_a_bug_in_placing_ends_the_engine_and_not_only_a_call() -> None:
    instance = FakeInstance(answers=True)
    instance.may_stop.set()

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    async with running(instance) as rig:
        await loaded(rig)
        rig.engine._metrics.placed = broken  # type: ignore[method-assign]
        rig.open()
        with pytest.raises(ExceptionGroup) as ended:
            await asyncio.wait_for(rig.task, 20)
    assert ended.group_contains(ZeroDivisionError)


async def test_what_is_done_for_a_caller_does_not_know_it() -> None:
    """The context of a caller holds its token, and a load is for everybody."""
    who: ContextVar[str] = ContextVar("who", default="nobody")
    seen: list[str] = []

    class Watching(FakeInstance):
        async def load(self, *args: Any, **more: Any) -> float:
            seen.append(who.get())
            return await super().load(*args, **more)

        async def complete(self, *args: Any, **more: Any) -> None:
            seen.append(who.get())
            await super().complete(*args, **more)

    instance = Watching(answers=True)
    instance.may_stop.set()
    async with running(instance) as rig:
        await asyncio.sleep(0)
        who.set("a caller")
        for _ in range(2):  # The second one is placed at once.
            await loaded(rig)
    assert seen == ["nobody"] * 3
