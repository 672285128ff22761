"""The engine with instances that do as the port allows: slow to stop, wrong in every way, or full of bugs."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry

from services.inference import upkeep
from services.inference.completion import Completion
from services.inference.core.admission import Order
from services.inference.core.asks import Chat
from services.inference.core.breaker import BreakerState
from services.inference.core.catalog import Catalog
from services.inference.core.estimates import Estimates
from services.inference.core.jobs import Priority
from services.inference.core.ledger import Card, InstanceView, Ledger, Report
from services.inference.core.options import Value
from services.inference.core.policy import Policy
from services.inference.core.scheduler import Scheduler
from services.inference.engine import Controls, Engine, Terms
from services.inference.errors import InstanceFailed, TimeExceeded
from services.inference.ports import Description, EndReason, Fault, Outcome, Piece, Sink, Trouble, Vectors
from services.inference.telemetry import Metrics
from services.inference.work import Answering

WITHIN_S = 20.0
ORDER = Order(ask=Chat(model="tiny", messages=()), model="tiny:latest", options={}, keep_alive_s=300.0)
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

    async def complete(self, order: Order, model: str, sink: Sink, *, first_token_s: float) -> None:
        self.running_count += 1
        self.running_count_max = max(self.running_count_max, self.running_count)
        try:
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
        return 0.1

    async def unload(self, model: str) -> None:
        self.unload_count += 1

    async def probe(
        self, model: str | None, *, embeds: bool = False, options: Mapping[str, Value] | None = None
    ) -> None:
        self.probe_count += 1
        await self.may_answer_probes.wait()

    async def report(self) -> Report:
        raise NotImplementedError

    async def describe(self, model: str) -> Description:
        raise NotImplementedError


@dataclass(frozen=True)
class Rig:
    engine: Engine
    ledger: Ledger

    def open(self, *, total_max_s: float = 60.0) -> tuple[int, Completion]:
        completion = Completion("s", opened_at_s=0.0, buffer_bytes_max=1000)
        terms = Terms(tenant="a", priority=Priority.DEFAULT, wait_max_s=60.0, total_max_s=total_max_s)
        return self.engine.submit(ORDER, terms, Answering(ORDER, completion)), completion

    async def until_busy(self, count: int) -> None:
        await until(lambda: sum(self.engine.busy("gpu-0").values()) == count)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not holds():
            await asyncio.sleep(0)


@asynccontextmanager
async def running(*instances: FakeInstance) -> AsyncIterator[Rig]:
    names = [f"gpu-{number}" for number, _ in enumerate(instances)]
    ledger = Ledger()
    engine = Engine(
        controls=Controls(
            instances=dict(zip(names, instances, strict=True)),
            doubt=lambda _: None,
            restart=lambda _name, _reason: False,
        ),
        ledger=ledger,
        scheduler=Scheduler(Policy(waiting_max=10), Estimates()),
        catalog=Catalog(),
        metrics=Metrics(CollectorRegistry()),
    )
    for name in names:
        engine.observe(InstanceView(name=name, slots=1, report=REPORT))
    task = asyncio.create_task(engine.run())
    try:
        yield Rig(engine, ledger)
    finally:
        for instance in instances:
            instance.may_stop.set()
            instance.may_answer_probes.set()
        task.cancel()
        await asyncio.wait([task])


async def whole(completion: Completion) -> None:
    while await completion.read() is not None:
        pass


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


async def test_an_instance_that_never_answers_again_is_broken_and_its_slot_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upkeep, "PROBE_S", 0.05)
    instance, other = FakeInstance(), FakeInstance(answers=True)
    instance.may_stop.set()
    other.may_stop.set()
    async with running(instance, other) as rig:
        ticket, _ = rig.open()
        await until(lambda: instance.running_count == 1)
        rig.engine.abandon(ticket)
        await rig.until_busy(0)
        assert instance.probe_count == 1
        assert rig.ledger.view("gpu-0").breaker is BreakerState.OPEN
        _, completion = rig.open()
        await whole(completion)
        assert (instance.running_count_max, other.running_count_max) == (1, 1)
