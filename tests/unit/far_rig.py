"""A worker and the head over a link that delivers when a test says so, with instances that do as they please."""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from services.common.errors import MeshError
from services.inference.core.admission import Order
from services.inference.core.catalog import Catalog
from services.inference.core.estimates import Estimates
from services.inference.core.jobs import Priority
from services.inference.core.ledger import InstanceView, Ledger
from services.inference.core.policy import Policy
from services.inference.core.scheduler import Scheduler
from services.inference.engine import Controls, Engine, Terms
from services.inference.errors import QueueFull
from services.inference.ports import EndReason, Fault, Outcome, Piece, Sink, Trouble
from services.inference.processes import messages
from services.inference.processes.branch import Branch
from services.inference.processes.counts import AllCounts
from services.inference.processes.far_engine import FarEngine
from services.inference.processes.frames import Frames
from services.inference.telemetry import Metrics
from services.inference.work import Answering
from tests.unit.completions import ReadCompletion, nothing_told
from tests.unit.engine_rig import ORDER, REPORT, WITHIN_S, FakeInstance

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
    completions: list[ReadCompletion] = field(default_factory=list)

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

    async def accepted(self, *, total_max_s: float = 600.0) -> tuple[int, ReadCompletion]:
        """Submit; return when that was accepted, and all else is yet to be delivered."""
        task = asyncio.create_task(self.submit(total_max_s=total_max_s))
        await asyncio.sleep(0)
        self.deliver(head=True)
        while not task.done():
            self.deliver(head=False)
            await asyncio.sleep(0)
        return await task

    async def submit(self, *, total_max_s: float = 600.0, tenant: str = "a") -> tuple[int, ReadCompletion]:
        completion = ReadCompletion()
        self.completions.append(completion)
        terms = Terms(
            tenant=tenant,
            priority=Priority.DEFAULT,
            wait_max_s=total_max_s,
            total_max_s=total_max_s,
            run_max_s=total_max_s,
        )
        return await self.far.submit(
            ORDER, terms, Answering(ORDER, completion, told=nothing_told)
        ), completion

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
