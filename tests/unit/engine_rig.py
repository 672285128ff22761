"""An engine over instances that do as the port allows: slow to stop, silent, or wrong in every way."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from services.inference.core.admission import Order
from services.inference.core.asks import Chat
from services.inference.core.catalog import Catalog
from services.inference.core.estimates import Estimates
from services.inference.core.jobs import Priority
from services.inference.core.ledger import Card, InstanceView, Ledger, Report
from services.inference.core.options import Value
from services.inference.core.policy import Policy
from services.inference.core.scheduler import Scheduler
from services.inference.core.usage import Usage
from services.inference.engine import Controls, Engine, Terms
from services.inference.ports import Description, EndReason, Fault, Outcome, Piece, Sink, Trouble, Vectors
from services.inference.telemetry import Metrics
from services.inference.work import Answering
from tests.unit.completions import ReadCompletion, nothing_told

WITHIN_S = 20.0
ORDER = Order(ask=Chat(model="tiny", messages=()), model="tiny:latest", options={}, keep_alive_s=300.0)
READ = Usage(prompt_token_count=1000, prompt_s=0.001)
STALLED, BROKEN = Trouble(Fault.STALLED, "silent"), Trouble(Fault.BROKEN, "it said so")
REPORT = Report(cards=(Card(name="tiny:latest"),))


@dataclass
class FakeInstance:
    """Runs each completion until told otherwise; stops only when it is allowed to."""

    running_count: int = 0
    running_count_max: int = 0
    may_stop: asyncio.Event = field(default_factory=asyncio.Event)
    failure: Exception | None = None
    answers: bool = False
    fails_when_stopped: bool = False
    load_count: int = 0
    unload_count: int = 0
    probe_count: int = 0
    may_answer_probes: asyncio.Event = field(default_factory=asyncio.Event)
    load_failure: Trouble | None = None
    probe_failure: Trouble | None = None
    stalls_after_a_token: bool = False
    first_token_s: list[float] = field(default_factory=list)

    async def complete(self, order: Order, model: str, sink: Sink, *, first_token_s: float) -> None:
        self.running_count += 1
        self.running_count_max = max(self.running_count_max, self.running_count)
        self.first_token_s.append(first_token_s)
        try:
            if self.stalls_after_a_token:
                sink.write(Piece(text="a"))
                raise STALLED
            if self.failure is not None:
                raise self.failure
            if self.answers:
                sink.write(Piece(text="a"))
                sink.finish(Outcome(reason=EndReason.STOP))
            else:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            if self.fails_when_stopped:
                raise Trouble(Fault.UNREACHABLE, "it hung up") from None
            raise
        finally:
            await self.may_stop.wait()
            self.running_count -= 1

    async def embed(self, order: Order, model: str, *, first_token_s: float) -> Vectors:
        raise NotImplementedError

    async def load(
        self, model: str, *, embeds: bool, options: Mapping[str, Value], keep_alive_s: float
    ) -> float:
        self.load_count += 1
        if self.load_failure is not None:
            raise self.load_failure
        return 0.1

    async def unload(self, model: str) -> None:
        self.unload_count += 1

    async def probe(
        self, model: str | None, *, embeds: bool = False, options: Mapping[str, Value] | None = None
    ) -> None:
        self.probe_count += 1
        if self.probe_failure is not None:
            raise self.probe_failure
        await self.may_answer_probes.wait()

    async def report(self) -> Report:
        raise NotImplementedError

    async def describe(self, model: str) -> Description:
        raise NotImplementedError


@dataclass(frozen=True)
class Rig:
    engine: Engine
    ledger: Ledger
    restarts: list[str]
    task: asyncio.Task[None]  # Of the engine.

    def open(self, *, total_max_s: float = 60.0) -> tuple[int, ReadCompletion]:
        completion = ReadCompletion()
        terms = Terms(
            tenant="a",
            priority=Priority.DEFAULT,
            wait_max_s=60.0,
            total_max_s=total_max_s,
            run_max_s=total_max_s,
        )
        return self.engine.submit(ORDER, terms, Answering(ORDER, completion, told=nothing_told)), completion

    async def until_busy(self, count: int) -> None:
        await until(lambda: sum(self.engine.busy("gpu-0").values()) == count)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not holds():
            await asyncio.sleep(0)


@asynccontextmanager
async def running(*instances: FakeInstance, slots: int = 1, measured: bool = False) -> AsyncIterator[Rig]:
    """`measured`: it is known how fast they read."""
    names = [f"gpu-{number}" for number, _ in enumerate(instances)]
    ledger, estimates = Ledger(), Estimates()
    restarts: list[str] = []

    def restart(name: str, _reason: str) -> bool:
        restarts.append(name)
        return True

    for name in names if measured else ():
        estimates.learn_work("tiny:latest", name, "a", usage=READ, reused_token_count=0, batch=1.0)
    engine = Engine(
        controls=Controls(
            instances=dict(zip(names, instances, strict=True)),
            doubt=lambda _: None,
            restart=restart,
        ),
        ledger=ledger,
        scheduler=Scheduler(Policy(waiting_max=10), estimates),
        catalog=Catalog(),
        metrics=Metrics(CollectorRegistry()),
    )
    for name in names:
        engine.observe(InstanceView(name=name, slots=slots, report=REPORT))
    task = asyncio.create_task(engine.run())
    try:
        yield Rig(engine, ledger, restarts, task)
    finally:
        for instance in instances:
            instance.may_stop.set()
            instance.may_answer_probes.set()
        task.cancel()
        await asyncio.wait([task])


async def whole(completion: ReadCompletion) -> None:
    while await completion.read() is not None:
        pass
