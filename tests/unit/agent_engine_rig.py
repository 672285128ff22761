"""An engine over a store in memory that answers when, and in the order in which, it likes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

from prometheus_client import CollectorRegistry

from services.agent.agents import Assignment, Recorder
from services.agent.core.approvals import Decided
from services.agent.core.budget import Usage
from services.agent.core.events import (
    ApprovalRequested,
    Delta,
    Event,
    Finished,
    Status,
)
from services.agent.core.ids import Owner, RunId, ThreadId
from services.agent.core.run import Answer
from services.agent.core.turns import Turns
from services.agent.engine import Engine, Pace
from services.agent.errors import RunNotFound, ThreadNotFound
from services.agent.leases import Held, History, Lease
from services.agent.ports import (
    Accepted,
    Access,
    Batch,
    EventPage,
    NewRun,
    Page,
    PageRequest,
    Retry,
    RunRecord,
    StoredEvent,
)
from services.agent.telemetry import AgentMetrics
from services.agent.worker import Worker
from tests.fakes.agent_parts import PLAIN, KeptSummaries, unobserved

ANN = Owner("o", "ann")
HOLDER = UUID(int=7)
THREAD = ThreadId(UUID(int=1))
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
        self.orphans: list[Held] = []
        self.woken: list[RunId] = []
        self.given_back: list[Lease] = []
        self.mandates: dict[RunId, str] = {}
        self.watched_runs: list[RunId] = []

    def ended(self, run_id: RunId) -> bool:
        return any(isinstance(event, Finished) for event in self.events[run_id])

    async def accept(self, owner: Owner, new: NewRun, retry: Retry | None) -> Accepted:
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
        return Accepted(record=record, lease=Lease(run_id=new.run_id, holder=HOLDER, fence=1))

    async def accept_batch(
        self, owner: Owner, new: Sequence[NewRun], mandate: str, retry: Retry | None
    ) -> Sequence[RunRecord]:
        raise NotImplementedError

    async def repeated_batch(self, owner: Owner, retry: Retry) -> Sequence[RunRecord] | None:
        raise NotImplementedError

    async def begin(self, lease: Lease) -> bool:
        return all(self.ended(before) for before in self.order[: self.order.index(lease.run_id)])

    async def append(self, lease: Lease, batch: Batch) -> Sequence[StoredEvent]:
        self.events[lease.run_id] += batch.events
        return [StoredEvent(n, b"") for n, _ in enumerate(batch.events, batch.first_sequence)]

    async def keep(self, leases: Collection[Lease]) -> Mapping[RunId, bool]:
        run_ids = [lease.run_id for lease in leases]
        self.renewed.append(run_ids)
        return {run_id: run_id in self.cancelled for run_id in run_ids}

    async def history(self, run_id: RunId, *, count_max: int) -> History:
        await self.readable.wait()
        return History(messages=[], is_whole=True)

    async def adopt(
        self, *, count_max: int, batch_count_max: int, urgent_count_max: int = 0
    ) -> Sequence[Held]:
        found, rest = self.orphans[:count_max], self.orphans[count_max:]
        urgent = [held for held in rest if held.last_sequence or held.is_cancelled]
        found += urgent[: max(0, urgent_count_max - len(found))]
        self.orphans = [held for held in rest if held not in found]
        return found

    async def take(self, run_id: RunId) -> Held | None:
        return None

    async def wake(self, run_id: RunId) -> None:
        self.woken.append(run_id)

    async def suspend(self, lease: Lease, questions: Mapping[UUID, float]) -> None:
        raise NotImplementedError

    async def give_back(self, lease: Lease) -> None:
        self.given_back.append(lease)

    async def claim(self, lease: Lease, call_id: str) -> bool:
        return True

    async def keep_mandate(self, lease: Lease, owner: Owner, mandate: str) -> None:
        self.mandates[lease.run_id] = mandate

    async def settled(self, run_id: RunId) -> Mapping[UUID, Decided]:
        return {}

    async def settle(self, run_id: RunId, question: ApprovalRequested, decided: Decided) -> Decided:
        raise NotImplementedError

    async def repeated(self, owner: Owner, retry: Retry) -> RunRecord | None:
        return None

    async def find(self, owner: Owner, run_id: RunId) -> RunRecord:
        raise RunNotFound

    async def page(self, owner: Owner, thread_id: ThreadId, request: PageRequest) -> Page[RunRecord]:
        raise ThreadNotFound

    async def unfinished(self, owner: Owner, thread_id: ThreadId) -> Sequence[RunId]:
        return [run_id for run_id in self.order if not self.ended(run_id)]

    async def request_cancel(self, run_id: RunId, *, rollback: bool) -> None:
        self.cancelled.add(run_id)

    async def roll_back(self, run_id: RunId) -> None:
        raise NotImplementedError

    async def watched(self, run_ids: Collection[RunId], *, for_s: float) -> None:
        self.watched_runs += run_ids

    async def tidy(self) -> None:
        pass

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


class Auth:
    """Gives mandates; `ended` are those that were given back."""

    def __init__(self) -> None:
        self.made = 0
        self.ended: list[str] = []
        self.failures: list[Exception] = []

    async def create(self, token: str, *, lifetime_s: float) -> str:
        if self.failures:
            raise self.failures.pop(0)
        self.made += 1
        return f"mandate {self.made}"

    async def redeem(self, mandate: str) -> Access:
        return Access(token=f"token of {mandate}", expire_time_s=1e9)

    async def end(self, mandate: str) -> None:
        self.ended.append(mandate)


@asynccontextmanager
async def engine(
    store: Store, agent: Parrot, *, runs_max: int = 8, auth: Auth | None = None
) -> AsyncIterator[Engine]:
    metrics = AgentMetrics(CollectorRegistry())
    made = Engine(
        turns=Turns(workers_max=4, runs_max=runs_max, runs_per_owner_max=8),
        worker=Worker(
            leases=store,
            events=store,
            approvals=store,
            agent=agent,
            metrics=metrics,
            observing=unobserved(),
            summaries=KeptSummaries(),
            clock=lambda: 0.0,
            patience_s=1,
            trusted_tools=(),
        ),
        runs=store,
        leases=store,
        events=store,
        mandates=auth or Auth(),
        metrics=metrics,
        clock=lambda: 0.0,
        pace=Pace(renew_s=0.01, look_s=0.01),
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(made.run())
        await asyncio.sleep(0)  # It runs before it is asked anything, as behind a server.
        yield made
        await made.stop()


async def start(made: Engine) -> RunRecord:
    new = NewRun(run_id=RunId(uuid4()), thread_id=THREAD, question="?", config=PLAIN)
    return await made.start(ANN, new, access=Access(token="t", expire_time_s=1e9), retry=None)


async def has_ended(store: Store, run_id: RunId) -> Finished:
    async with asyncio.timeout(30):
        while not store.ended(run_id):
            await asyncio.sleep(0.005)
    end = store.events[run_id][-1]
    assert isinstance(end, Finished)
    return end


def orphan(store: Store, *, told: Sequence[Event] = (), **fields: object) -> Held:
    """A run that others left."""
    run_id = RunId(uuid4())
    store.order.append(run_id)
    store.events[run_id] = list(told)
    held = Held(
        lease=Lease(run_id=run_id, holder=HOLDER, fence=2),
        thread_id=THREAD,
        owner=ANN,
        position=len(store.order),
        question="?",
        config=PLAIN,
        last_sequence=len(told),
        mandate="old",
    )
    return replace(held, **fields)  # type: ignore[arg-type]
