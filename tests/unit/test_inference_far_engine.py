"""A worker and the head over a link that delivers when it pleases: whoever leaves, fails or dies at whatever moment,
no instance gets more than it has slots, whoever stays hears how it ended, and nothing is left on either side.
"""

import asyncio
import random

import pytest

from services.inference.completion import Finished
from services.inference.errors import InstanceFailed, QueueFull, TimeExceeded
from services.inference.processes import far_engine, messages
from tests.unit.engine_rig import ORDER, until
from tests.unit.far_rig import (
    PATIENCE,
    SLOTS,
    WAITING_MAX,
    caller,
    rig,
    some_callers,
    wire_by_chance,
)


@pytest.mark.parametrize("seed", range(25))
async def test_whatever_happens_nothing_is_left(seed: int) -> None:
    chance = random.Random(seed)
    async with rig(seed) as running:
        await some_callers(chance, running)
        await until(running.idle)
        for instance in running.instances.values():
            assert instance.running_count_max <= SLOTS, "a slot was given back while it was used"


@pytest.mark.parametrize("seed", range(15))
async def test_a_worker_that_dies_leaves_nothing(seed: int) -> None:
    chance = random.Random(seed)
    async with rig(seed) as running:
        callers = [
            asyncio.create_task(caller(chance, running, patience=chance.choice(PATIENCE))) for _ in range(10)
        ]
        delivering = asyncio.create_task(wire_by_chance(chance, running))
        for _ in range(chance.randrange(60)):
            await asyncio.sleep(0)
        delivering.cancel()
        running.wire.cut = True
        running.wire.to_head.clear()
        running.wire.to_worker.clear()
        for task in asyncio.all_tasks():  # What the kernel does: its connections are closed.
            if task.get_coro().__name__ == "_use":  # type: ignore[union-attr]
                task.cancel()
        await until(lambda: not any(one.running_count for one in running.instances.values()))
        running.branch.lost()
        await until(
            lambda: (
                not any(sum(running.engine.busy(name).values()) for name in running.instances)
                and not running.engine.queues()
            )
        )
        assert running.branch.open_count == 0
        for task in callers:
            task.cancel()
        await asyncio.wait(callers)


async def test_a_slot_of_a_worker_that_died_comes_back_only_after_a_probe() -> None:
    """Whatever it had come to: a prompt may still be read."""
    async with rig(instances=1) as running:
        instance = running.instances["gpu-0"]
        instance.fate, instance.silent = "hang", True
        instance.may_answer_probes.clear()
        await running.accepted()
        await until(lambda: running.says(messages.Run))
        running.deliver_all()
        await until(lambda: instance.running_count == 1)
        running.wire.cut = True
        await running.far.end()
        running.branch.lost()
        await until(lambda: instance.probe_count == 1)
        assert running.engine.busy("gpu-0") == {ORDER.model: 1}
        instance.may_answer_probes.set()
        await until(running.idle)


async def test_who_leaves_while_its_request_is_on_its_way_leaves_nothing() -> None:
    async with rig() as running:
        task = asyncio.create_task(running.submit())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert running.far.open_count == 0
        await until(running.idle)
        assert all(instance.running_count == 0 for instance in running.instances.values())


async def test_who_leaves_as_it_gets_its_slot_starts_nothing() -> None:
    async with rig(instances=1) as running:
        task = asyncio.create_task(running.submit())
        await asyncio.sleep(0)
        running.deliver(head=True)
        await until(lambda: running.says(messages.Run))
        assert running.says(messages.Accepted)
        task.cancel()
        await asyncio.wait([task])
        probes = running.instances["gpu-0"].probe_count
        await until(running.idle)
        assert running.instances["gpu-0"].probe_count == probes, "nothing was sent, so nothing is asked"


@pytest.mark.parametrize("failed_before", [False, True])
async def test_time_that_is_up_before_anything_was_sent_asks_nothing_of_the_instance(
    *, failed_before: bool
) -> None:
    """Run and Cancel arrive together; what an earlier instance was sent does not count."""
    async with rig(instances=1 + failed_before) as running:
        for instance in running.instances.values():
            instance.fate, instance.silent = "trouble", True
        _, completion = await running.accepted(total_max_s=1.0)
        if failed_before:
            await until(lambda: running.says(messages.Run))
            while not running.wire.to_head:
                running.deliver(head=False)
                await asyncio.sleep(0)
            running.deliver(head=True)
        await until(lambda: running.says(messages.Cancel))
        assert running.says(messages.Run)
        used_count = sum(instance.running_count_max for instance in running.instances.values())
        await until(running.idle)
        assert isinstance(completion.ending, TimeExceeded)
        assert sum(instance.running_count_max for instance in running.instances.values()) == used_count
        assert all(instance.probe_count == 0 for instance in running.instances.values())


async def test_who_leaves_with_its_whole_answer_disturbs_nobody() -> None:
    async with rig(instances=1) as running:
        instance = running.instances["gpu-0"]
        instance.fate, instance.lingers = "well", True
        ticket, completion = await running.accepted()
        await until(lambda: running.idle() or completion.ending is not None)
        running.far.abandon(ticket)
        assert not running.wire.to_head, "there is nothing to be said"
        await until(lambda: instance.running_count == 1)
        instance.goes_on.set()
        await until(running.idle)
        assert instance.cancelled_count == 0


async def test_a_cancel_that_comes_after_the_whole_answer_is_too_late() -> None:
    async with rig(instances=1) as running:
        instance = running.instances["gpu-0"]
        instance.fate, instance.lingers = "well", True
        _, completion = await running.accepted(total_max_s=1.0)
        await until(lambda: running.says(messages.Run))
        while not isinstance(completion.ending, Finished):
            running.deliver(head=False)
            await asyncio.sleep(0)
        await until(lambda: running.says(messages.Cancel))
        running.deliver_all()
        for _ in range(10):
            await asyncio.sleep(0)
        assert instance.running_count == 1
        instance.goes_on.set()
        await until(running.idle)
        assert instance.cancelled_count == 0
        assert isinstance(completion.ending, Finished)


async def test_a_refusal_is_raised_before_there_is_a_ticket() -> None:
    async with rig(instances=1, slots=0) as running:
        waiting = [asyncio.create_task(running.submit()) for _ in range(WAITING_MAX)]
        await asyncio.sleep(0)
        running.deliver_all()
        await asyncio.wait(waiting)
        one_too_many = asyncio.create_task(running.submit())
        await asyncio.sleep(0)
        running.deliver_all()
        with pytest.raises(QueueFull) as refused:
            await one_too_many
        assert refused.value.facts == {"waiting_max": str(WAITING_MAX)}
        assert running.far.open_count == WAITING_MAX
        for task in waiting:
            running.far.abandon(task.result()[0])
        await until(running.idle)


async def test_more_than_the_head_answers_is_refused_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(far_engine, "ASKING_MAX", 2)
    async with rig() as running:
        asking = [asyncio.create_task(running.submit()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await running.submit()
        assert running.refusals == ["QUEUE_FULL"]
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
        await until(running.idle)


async def test_what_fails_is_answered_elsewhere_and_what_fails_there_too_is_told() -> None:
    async with rig() as running:
        for fates, ending in ((("trouble", "well"), Finished), (("trouble", "trouble"), InstanceFailed)):
            for instance, fate in zip(running.instances.values(), fates, strict=True):
                instance.fate, instance.silent = fate, True
            for _ in range(4):  # Wherever it goes first.
                task = asyncio.create_task(running.submit())
                await asyncio.sleep(0)
                running.deliver_all()
                _, completion = await task
                await until(running.idle)
                assert isinstance(completion.ending, ending)


async def test_an_instance_that_the_worker_does_not_know_has_failed() -> None:
    for instances, ending in ((2, Finished), (1, InstanceFailed)):
        async with rig(instances=instances, unknown="gpu-0") as running:
            for instance in running.instances.values():
                instance.fate = "well"
            task = asyncio.create_task(running.submit())
            await asyncio.sleep(0)
            running.deliver_all()
            _, completion = await task
            await until(running.idle)
            assert isinstance(completion.ending, ending)
            assert running.instances["gpu-0"].running_count_max == 0


async def test_time_that_is_up_reaches_the_caller_and_ends_the_work() -> None:
    async with rig(instances=1) as running:
        running.instances["gpu-0"].fate = "hang"
        task = asyncio.create_task(running.submit(total_max_s=0.2))
        await asyncio.sleep(0)
        while not task.done():
            running.deliver_all()
            await asyncio.sleep(0)
        _, completion = task.result()
        await until(running.idle)
        assert isinstance(completion.ending, TimeExceeded)


async def test_everything_that_waits_is_told_its_place_and_everything_is_known_here() -> None:
    async with rig(instances=1, slots=0) as running:
        tasks = [asyncio.create_task(running.submit()) for _ in range(2)]
        await asyncio.sleep(0)
        running.deliver_all()
        await asyncio.wait(tasks)
        asking = asyncio.create_task(running.far.standing())
        await asyncio.sleep(0)
        running.deliver_all()
        standing = await asking
        assert [len(jobs) for jobs in standing.queues.values()] == [2]
        assert standing.busy == {"gpu-0": {}}
        assert running.far.ready
        for task in tasks:
            running.far.abandon(task.result()[0])
        await until(running.idle)
