"""What the engine makes of a store that answers when, and in the order in which, it likes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from prometheus_client import CollectorRegistry

from services.agent.core.budget import Limits, Usage
from services.agent.core.conversation import Message
from services.agent.core.events import Delta, Event, Finished, Status
from services.agent.core.ids import Owner, RunId, ThreadId
from services.agent.core.run import Answer
from services.agent.core.run_config import RunConfig
from services.agent.core.turns import Turns
from services.agent.engine import Engine
from services.agent.errors import RunNotFound, ThreadNotFound, TooManyRuns
from services.agent.ports import (
    Assignment,
    Batch,
    EventPage,
    NewRun,
    Orphan,
    Page,
    PageRequest,
    Recorder,
    Retry,
    RunRecord,
    StoredEvent,
)
from services.agent.telemetry import AgentMetrics
from services.agent.worker import Worker
from services.common.errors import StoreUnavailable

ANN = Owner("o", "ann")
THREAD = ThreadId(UUID(int=1))
CONFIG = RunConfig(
    model="tiny",
    system_prompt="",
    tools=(),
    first_tool="",
    temperature=None,
    seed=None,
    limits=Limits(),
)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Store:
    """Runs of one thread, and their events, in memory. `before_reply` may hold an acceptance up."""

    def __init__(self) -> None:
        self.order: list[RunId] = []  # As they were committed.
        self.events: dict[RunId, list[Event]] = {}
        self.before_reply: Callable[[int], asyncio.Event | None] = lambda _: None
        self.failure: Exception | None = None
        self.readable = asyncio.Event()
        self.readable.set()
        self.renewed: list[Sequence[RunId]] = []
        self.cancelled: set[RunId] = set()

    def ended(self, run_id: RunId) -> bool:
        return any(isinstance(event, Finished) for event in self.events[run_id])

    async def accept(self, owner: Owner, new: NewRun, retry: Retry | None) -> tuple[RunRecord, bool]:
        if self.failure:
            raise self.failure
        self.order.append(new.run_id)
        self.events[new.run_id] = []
        position = len(self.order)
        if held := self.before_reply(position):
            await held.wait()
        record = RunRecord(
            run_id=new.run_id,
            thread_id=new.thread_id,
            position=position,
            config=new.config,
            status=Status.PENDING,
            usage=Usage(),
            outcome=None,
            create_time=NOW,
            start_time=None,
            end_time=None,
            last_sequence=0,
        )
        return record, True

    async def begin(self, run_id: RunId) -> bool:
        return all(self.ended(before) for before in self.order[: self.order.index(run_id)])

    async def append(self, run_id: RunId, batch: Batch) -> Sequence[StoredEvent]:
        self.events[run_id] += batch.events
        return [StoredEvent(n, b"") for n, _ in enumerate(batch.events, batch.first_sequence)]

    async def keep(self, run_ids: Sequence[RunId]) -> Mapping[RunId, bool]:
        self.renewed.append(run_ids)
        return {run_id: run_id in self.cancelled for run_id in run_ids}

    async def history(self, run_id: RunId, *, count_max: int) -> Sequence[Message]:
        await self.readable.wait()
        return []

    async def adopt(self) -> Sequence[Orphan]:
        return []

    async def repeated(self, owner: Owner, retry: Retry) -> RunRecord | None:
        return None

    async def find(self, owner: Owner, run_id: RunId) -> RunRecord:
        raise RunNotFound

    async def page(self, owner: Owner, thread_id: ThreadId, request: PageRequest) -> Page[RunRecord]:
        raise ThreadNotFound

    async def unfinished(self, owner: Owner, thread_id: ThreadId) -> Sequence[RunId]:
        return [run_id for run_id in self.order if not self.ended(run_id)]

    async def request_cancel(self, run_id: RunId) -> None:
        self.cancelled.add(run_id)

    async def told(self, run_id: RunId) -> Sequence[tuple[float, Event]]:
        return [(0.0, event) for event in self.events[run_id]]

    async def read(self, run_id: RunId, *, after_sequence: int) -> EventPage:
        raise RunNotFound


class Parrot:
    """Answers at once, or when it is let."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.let.set()

    async def work(self, assignment: Assignment, recorder: Recorder) -> str:
        recorder.ask()
        await self.let.wait()
        await recorder.hear(Delta("ok"))
        await recorder.answer(Answer(calls=(), prompt_token_count=1, output_token_count=1, truncated=False))
        return "ok"


@asynccontextmanager
async def engine(store: Store, agent: Parrot, *, runs_max: int = 8) -> AsyncIterator[Engine]:
    metrics = AgentMetrics(CollectorRegistry())
    made = Engine(
        turns=Turns(workers_max=4, runs_max=runs_max, runs_per_owner_max=8),
        worker=Worker(
            runs=store, events=store, agent=agent, metrics=metrics, clock=lambda: 0.0, patience_s=1
        ),
        runs=store,
        events=store,
        metrics=metrics,
        clock=lambda: 0.0,
        renew_every_s=0.01,
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(made.run())
        await asyncio.sleep(0)  # It runs before it is asked anything, as behind a server.
        yield made
        await made.stop()


async def start(made: Engine) -> RunRecord:
    new = NewRun(run_id=RunId(uuid4()), thread_id=THREAD, question="?", config=CONFIG, reject_if_busy=False)
    return await made.start(ANN, new, token="t", retry=None)


async def has_ended(store: Store, run_id: RunId) -> Finished:
    async with asyncio.timeout(5):
        while not store.ended(run_id):
            await asyncio.sleep(0.005)
    end = store.events[run_id][-1]
    assert isinstance(end, Finished)
    return end


async def test_a_run_that_is_heard_of_late_still_goes_first() -> None:
    """Its acceptance was committed first, and its reply overtaken: the later one must let it by."""
    store, late = Store(), asyncio.Event()
    store.before_reply = lambda position: late if position == 1 else None
    async with engine(store, Parrot()) as made:
        first = asyncio.create_task(start(made))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second = await start(made)
        assert store.order.index(second.run_id) == 1
        await asyncio.sleep(0.02)
        late.set()
        assert (await has_ended(store, (await first).run_id)).status is Status.SUCCEEDED
        assert (await has_ended(store, second.run_id)).status is Status.SUCCEEDED


async def test_a_run_whose_turn_does_not_come_can_be_cancelled() -> None:
    store, never = Store(), asyncio.Event()
    store.before_reply = lambda position: never if position == 1 else None
    async with engine(store, Parrot()) as made:
        first = asyncio.create_task(start(made))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second = await start(made)
        await store.request_cancel(second.run_id)
        assert (await has_ended(store, second.run_id)).status is Status.CANCELLED
        never.set()
        await first


async def test_a_run_that_is_cancelled_just_before_it_asks_never_asks() -> None:
    store = Store()
    store.readable.clear()
    async with engine(store, Parrot()) as made:
        run = await start(made)
        await store.request_cancel(run.run_id)
        renewals = len(store.renewed)
        async with asyncio.timeout(5):
            while len(store.renewed) < renewals + 3:
                await asyncio.sleep(0.005)
        store.readable.set()
        assert (await has_ended(store, run.run_id)).status is Status.CANCELLED
        assert not any(isinstance(event, Delta) for event in store.events[run.run_id])


async def test_a_failed_acceptance_gives_its_place_back() -> None:
    store = Store()
    async with engine(store, Parrot(), runs_max=1) as made:
        store.failure = StoreUnavailable()
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await start(made)
        store.failure = None
        run = await start(made)
        await has_ended(store, run.run_id)


async def test_a_caller_that_leaves_during_acceptance_leaves_a_run_that_is_worked_on() -> None:
    store, slow = Store(), asyncio.Event()
    store.before_reply = lambda _: slow
    async with engine(store, Parrot()) as made:
        leaving = asyncio.create_task(start(made))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        leaving.cancel()
        slow.set()
        assert (await has_ended(store, store.order[0])).status is Status.SUCCEEDED


async def test_leases_are_renewed_while_a_run_works_and_places_are_bounded() -> None:
    store, agent = Store(), Parrot()
    agent.let.clear()
    async with engine(store, agent, runs_max=1) as made:
        run = await start(made)
        with pytest.raises(TooManyRuns):
            await start(made)
        async with asyncio.timeout(5):
            while [run.run_id] not in store.renewed:
                await asyncio.sleep(0.005)
        agent.let.set()
        await has_ended(store, run.run_id)


async def test_stopping_ends_what_works_and_what_waits() -> None:
    store, agent = Store(), Parrot()
    agent.let.clear()
    async with engine(store, agent) as made:
        runs = [await start(made) for _ in range(3)]
    ends = [await has_ended(store, run.run_id) for run in runs]
    assert [(end.status, end.reason) for end in ends] == [(Status.FAILED, "RUN_LOST")] * 3
