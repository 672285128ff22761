"""The engine with instances that do as the port allows: slow to stop, wrong in every way, or full of bugs."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from math import isfinite

import pytest
from prometheus_client import CollectorRegistry

from services.common.errors import MeshError
from services.inference import health, upkeep
from services.inference.completion import Completion
from services.inference.core.admission import Order
from services.inference.core.asks import Chat
from services.inference.core.breaker import Breaker, BreakerState
from services.inference.core.catalog import Catalog
from services.inference.core.estimates import Estimates
from services.inference.core.jobs import Job, Priority
from services.inference.core.ledger import Card, InstanceView, Ledger, Report
from services.inference.core.options import Value
from services.inference.core.policy import Policy
from services.inference.core.scheduler import Scheduler
from services.inference.core.usage import Usage
from services.inference.engine import Controls, Engine, Terms
from services.inference.errors import InstanceFailed, StreamStalled, TimeExceeded
from services.inference.ports import Description, EndReason, Fault, Outcome, Piece, Sink, Trouble, Vectors
from services.inference.telemetry import Metrics
from services.inference.work import Answering

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
        yield Rig(engine, ledger, restarts)
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


async def test_an_instance_that_never_answers_again_is_broken_and_its_slot_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upkeep, "PROBE_S", 0.05)
    instance, other = FakeInstance(), FakeInstance(answers=True)
    instance.may_stop.set()
    other.may_stop.set()
    async with running(instance, other, measured=True) as rig:
        ticket, _ = rig.open()
        await until(lambda: instance.running_count == 1)
        rig.engine.abandon(ticket)
        await rig.until_busy(0)
        assert instance.probe_count == 1
        assert rig.ledger.view("gpu-0").breaker is BreakerState.OPEN
        _, completion = rig.open()
        await whole(completion)
        assert (instance.running_count_max, other.running_count_max) == (1, 1)


async def fail(rig: Rig, count: int = 1) -> None:
    """Have so many calls fail, one after the other."""
    for _ in range(count):
        _, completion = rig.open()
        with pytest.raises(MeshError):
            await whole(completion)


def probe_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "Breaker", partial(Breaker, open_s=0.01))


async def test_one_that_stalls_in_the_middle_of_all_it_had_is_started_anew() -> None:
    """Although the first of several, beside which others ran, opened the breaker."""
    instance = FakeInstance(stalls_after_a_token=True)
    async with running(instance, slots=4) as rig:
        calls = [rig.open()[1] for _ in range(4)]
        await until(lambda: instance.running_count == 4)
        instance.may_stop.set()
        for completion in calls:
            with pytest.raises(StreamStalled):
                await whole(completion)
        assert rig.restarts == ["gpu-0"]


@pytest.mark.parametrize(("answer", "restarted"), [(STALLED, True), (None, False)])
async def test_after_silence_before_the_first_tokens_a_probe_decides(
    monkeypatch: pytest.MonkeyPatch, answer: Trouble | None, *, restarted: bool
) -> None:
    probe_soon(monkeypatch)
    instance = FakeInstance(failure=STALLED, probe_failure=answer)
    instance.may_answer_probes.set()
    async with running(instance, slots=4) as rig:
        calls = [rig.open()[1] for _ in range(4)]
        await until(lambda: instance.running_count == 4)
        assert rig.restarts == []
        instance.may_stop.set()
        for completion in calls:
            with pytest.raises(InstanceFailed):
                await whole(completion)
        await until(lambda: bool(rig.restarts) if restarted else rig.ledger.view("gpu-0").ready)
        assert instance.probe_count == 1
        assert rig.restarts == (["gpu-0"] if restarted else [])


async def test_a_probe_that_fails_beside_others_restarts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    probe_soon(monkeypatch)
    instance = FakeInstance(probe_failure=STALLED)
    async with running(instance, slots=2) as rig:
        rig.open()
        await until(lambda: instance.running_count == 1)
        instance.failure = BROKEN
        instance.may_stop.set()
        await fail(rig, 3)
        await until(lambda: instance.probe_count == 2)
        assert rig.restarts == []


async def test_requests_that_are_answered_with_errors_keep_an_instance_for_one_probe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probe_soon(monkeypatch)
    instance = FakeInstance(failure=BROKEN)
    instance.may_stop.set()
    async with running(instance) as rig:
        await fail(rig, 3)
        assert not rig.ledger.view("gpu-0").ready
        instance.may_answer_probes.set()
        instance.failure, instance.answers = None, True
        await until(lambda: rig.ledger.view("gpu-0").ready)
        _, completion = rig.open()
        await whole(completion)
        assert (instance.probe_count, rig.restarts) == (1, [])


@pytest.mark.parametrize(
    ("failure", "state", "restarts"),
    [(BROKEN, BreakerState.CLOSED, []), (STALLED, BreakerState.OPEN, ["gpu-0"])],
)
async def test_a_load_that_fails_tells_of_the_model_and_one_that_hangs_of_the_instance(
    monkeypatch: pytest.MonkeyPatch, failure: Trouble, state: BreakerState, restarts: list[str]
) -> None:
    monkeypatch.setattr(health, "Breaker", partial(Breaker, failures_max=1))
    instance = FakeInstance(load_failure=failure)
    async with running(instance) as rig:
        _, completion = rig.open()
        await until(lambda: instance.load_count == 1)
        for _ in range(20):
            await asyncio.sleep(0)
        assert rig.ledger.view("gpu-0").breaker is state
        assert rig.restarts == restarts
        assert completion.ending is None


@pytest.mark.parametrize("measured", [False, True])
async def test_the_first_token_is_timed_only_by_what_was_measured(*, measured: bool) -> None:
    instance = FakeInstance(answers=True)
    instance.may_stop.set()
    async with running(instance, measured=measured) as rig:
        _, completion = rig.open()
        await whole(completion)
        assert [isfinite(limit_s) for limit_s in instance.first_token_s] == [measured]


async def test_who_left_an_instance_that_was_never_measured_makes_nobody_call_it_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be reading the prompt for as long as its own timeout allows."""
    monkeypatch.setattr(upkeep, "PROBE_S", 0.01)
    instance = FakeInstance()
    instance.may_stop.set()
    async with running(instance) as rig:
        ticket, _ = rig.open()
        await until(lambda: instance.running_count == 1)
        rig.engine.abandon(ticket)
        await until(lambda: instance.probe_count == 1)
        await asyncio.sleep(0.05)
        await rig.until_busy(1)
        assert rig.ledger.view("gpu-0").ready
        instance.may_answer_probes.set()
        await rig.until_busy(0)
