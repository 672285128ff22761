"""A worker and the head over a link that delivers when it pleases: whoever leaves, fails or dies at whatever moment,
no instance gets more than it has slots, whoever stays hears how it ended, and nothing is left on either side.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry

from services.common.errors import MeshError
from services.inference.completion import Completion, Event, Finished
from services.inference.core.admission import Order
from services.inference.core.catalog import Catalog
from services.inference.core.estimates import Estimates
from services.inference.core.jobs import Priority
from services.inference.core.ledger import InstanceView, Ledger
from services.inference.core.policy import Policy
from services.inference.core.scheduler import Scheduler
from services.inference.engine import Controls, Engine, Terms
from services.inference.errors import InstanceFailed, QueueFull, TimeExceeded
from services.inference.ports import EndReason, Fault, Outcome, Piece, Sink, Trouble
from services.inference.processes import far_engine, messages
from services.inference.processes.branch import Branch
from services.inference.processes.counts import AllCounts
from services.inference.processes.far_engine import FarEngine
from services.inference.processes.frames import Frames
from services.inference.telemetry import Metrics
from services.inference.work import Answering
from tests.unit.engine_rig import ORDER, REPORT, WITHIN_S, FakeInstance, until

SLOTS, WAITING_MAX = 2, 6
PATIENCE = (1, 3, 10, 30, 100, None)  # In turns of the loop; None stays to the end.
FATES = ("well", "well", "well", "trouble", "refusal", "bug", "hang")


@dataclass
class Fickle(FakeInstance):
    """Does whatever an instance may do, by chance, and takes its time to stop."""

    chance: random.Random = field(default_factory=random.Random)
    fate: str = ""
    silent: bool = False  # Says nothing before it fails.
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)  # Once set, what hangs ends well.
    lingers: bool = False  # Does not return from what has ended until `goes_on`.
    cancelled_count: int = 0

    async def complete(self, order: Order, model: str, sink: Sink, *, first_token_s: float) -> None:
        self.running_count += 1
        self.running_count_max = max(self.running_count_max, self.running_count)
        try:
            await self._answer(sink)
        except asyncio.CancelledError:
            self.cancelled_count += 1
            raise
        finally:
            for _ in range(self.chance.randrange(5)):
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)
            self.running_count -= 1

    async def _answer(self, sink: Sink) -> None:
        fate = self.fate or self.chance.choice(FATES)
        for _ in range(self.chance.randrange(4)):
            await asyncio.sleep(0)
        if not self.silent and self.chance.random() < 0.5:
            sink.write(Piece(text="a"))
            await asyncio.sleep(0)
        match fate:
            case "trouble":
                raise Trouble(Fault.BROKEN, "it said so")
            case "refusal":
                raise QueueFull
            case "bug":
                raise ValueError("a bug")
            case "hang":
                await self.goes_on.wait()
        sink.write(Piece(text="b"))
        sink.finish(Outcome(reason=EndReason.STOP, output_token_count=2))
        if self.lingers:
            await self.goes_on.wait()


class Wire:
    """Both directions of a link. Delivers in order, each when `step` says so."""

    def __init__(self) -> None:
        self.to_head: deque[bytes] = deque()
        self.to_worker: deque[bytes] = deque()
        self.cut = False

    def from_worker(self, message: messages.FromWorker | messages.FromHead, /) -> None:
        if not self.cut:
            self.to_head += Frames().feed(messages.encoded(message))

    def from_head(self, message: messages.FromWorker | messages.FromHead, /) -> None:
        if not self.cut:
            self.to_worker += Frames().feed(messages.encoded(message))


@dataclass
class Rig:
    engine: Engine
    branch: Branch
    far: FarEngine
    wire: Wire
    instances: dict[str, Fickle]
    refusals: list[str]  # Of the worker itself.
    completions: list[Completion[Event]] = field(default_factory=list)

    def deliver(self, *, head: bool) -> None:
        if head and self.wire.to_head:
            self.branch.take(self.wire.to_head.popleft())
        elif not head and self.wire.to_worker:
            self.far.take(self.wire.to_worker.popleft())

    def deliver_all(self) -> None:
        while self.wire.to_head or self.wire.to_worker:
            self.deliver(head=True)
            self.deliver(head=False)

    def says(self, kind: type[messages.Message]) -> bool:
        """Whether such a message is on its way to the worker."""
        return any(isinstance(messages.from_head(data), kind) for data in self.wire.to_worker)

    async def accepted(self, *, total_max_s: float = 600.0) -> tuple[int, Completion[Event]]:
        """Submit; return when that was accepted, and all else is yet to be delivered."""
        task = asyncio.create_task(self.submit(total_max_s=total_max_s))
        await asyncio.sleep(0)
        self.deliver(head=True)
        while not task.done():
            self.deliver(head=False)
            await asyncio.sleep(0)
        return await task

    async def submit(self, *, total_max_s: float = 600.0, tenant: str = "a") -> tuple[int, Completion[Event]]:
        completion = Completion("s", seal=lambda event: event, opened_at_s=0.0, buffer_bytes_max=1000)
        self.completions.append(completion)
        terms = Terms(
            tenant=tenant, priority=Priority.DEFAULT, wait_max_s=total_max_s, total_max_s=total_max_s
        )
        return await self.far.submit(ORDER, terms, Answering(ORDER, completion)), completion

    def idle(self) -> bool:
        """Deliver what there is; whether nothing is left anywhere."""
        self.deliver_all()
        return not (
            any(sum(self.engine.busy(name).values()) for name in self.instances)
            or self.engine.queues()
            or self.branch.open_count
            or self.far.open_count
            or any(instance.running_count for instance in self.instances.values())
        )


@asynccontextmanager
async def rig(
    seed: int = 0, *, instances: int = 2, slots: int = SLOTS, unknown: str = ""
) -> AsyncIterator[Rig]:
    """`unknown`: an instance that the head has and the worker has not."""
    fleet = {f"gpu-{number}": Fickle(chance=random.Random(f"{seed} {number}")) for number in range(instances)}
    for instance in fleet.values():
        instance.may_answer_probes.set()
    ledger, wire = Ledger(), Wire()
    engine = Engine(
        controls=Controls(instances=fleet, doubt=lambda _: None, restart=lambda _name, _why: True),
        ledger=ledger,
        scheduler=Scheduler(Policy(waiting_max=WAITING_MAX), Estimates()),
        catalog=Catalog(),
        metrics=Metrics(CollectorRegistry()),
    )
    share = AllCounts(CollectorRegistry()).share()
    branch = Branch(engine, send=wire.from_head, instances=fleet, share=share)
    known = {name: instance for name, instance in fleet.items() if name != unknown}
    refusals: list[str] = []
    far = FarEngine(known, Ledger(), send=wire.from_worker, stop=asyncio.Event(), refused=refusals.append)
    ledger.tells(branch.tell)
    for name in fleet:
        engine.observe(InstanceView(name=name, slots=slots, report=REPORT))
    task = asyncio.create_task(engine.run())
    try:
        yield Rig(engine, branch, far, wire, fleet, refusals)
    finally:
        branch.lost()  # Or what runs would be waited for, should the test have failed.
        task.cancel()
        await asyncio.wait([task])


async def caller(chance: random.Random, rig: Rig, *, patience: int | None) -> None:
    """Ask, read for a while, and go, in whatever state the request is; or stay until it is told how it ended."""

    async def call() -> None:
        ticket, completion = await rig.submit(tenant=chance.choice("abc"))
        try:
            with suppress(MeshError, ValueError):
                while await completion.read() is not None:
                    pass
        finally:
            rig.far.abandon(ticket)

    task = asyncio.create_task(call())
    if patience is not None:
        for _ in range(patience):
            await asyncio.sleep(0)
        task.cancel()
    with suppress(asyncio.CancelledError, MeshError):
        await task


async def wire_by_chance(chance: random.Random, rig: Rig) -> None:
    while True:
        rig.deliver(head=chance.random() < 0.5)
        if chance.random() < 0.4:
            await asyncio.sleep(0)


async def some_callers(chance: random.Random, rig: Rig) -> None:
    async with asyncio.TaskGroup() as tasks:
        delivering = tasks.create_task(wire_by_chance(chance, rig))
        leave, stay = list[asyncio.Task[None]](), list[asyncio.Task[None]]()
        for _ in range(60):
            patience = chance.choice(PATIENCE)
            kind = stay if patience is None else leave
            kind.append(tasks.create_task(caller(chance, rig, patience=patience)))
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
        await asyncio.wait(leave)
        for instance in rig.instances.values():
            instance.goes_on.set()
        _, never_told = await asyncio.wait(stay, timeout=WITHIN_S)
        assert not never_told, "it stayed, and was not told how it ended"
        delivering.cancel()


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
