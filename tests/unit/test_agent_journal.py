"""Committing, showing and watching a run's events while the store is slow, absent or gone."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from services.agent.core.budget import Limits, Usage
from services.agent.core.conversation import ToolCall
from services.agent.core.events import (
    Channel,
    Delta,
    Event,
    Finished,
    Started,
    Status,
    ToolCalled,
    ToolOutput,
)
from services.agent.core.ids import RunId
from services.agent.core.record import Record
from services.agent.core.run import CANCELLED, Answer, Run
from services.agent.core.taint import Taint
from services.agent.errors import LeaseLost
from services.agent.feed import KEPT_MAX, Feed
from services.agent.journal import GATHERED_CHARS_MAX, Journal
from services.agent.leases import Lease
from services.agent.ports import Batch, EventPage, StoredEvent
from services.agent.recorder import RunRecorder
from services.agent.watch import Watches
from services.common.errors import StoreUnavailable
from tests.fakes.agent_parts import unobserved_run

RUN = RunId(UUID(int=1))
LEASE = Lease(run_id=RUN, holder=UUID(int=2), fence=1)
END = Finished(status=Status.SUCCEEDED, usage=Usage())


class Store:
    """Events of one run in memory, which take their time while `open` is clear."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.batches: list[Batch] = []
        self.stored: list[StoredEvent] = []
        self.failures: list[Exception] = []
        self.reads = 0

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch.events]

    async def append(self, lease: Lease, batch: Batch) -> Sequence[StoredEvent]:
        await self.open.wait()
        if self.failures:
            raise self.failures.pop(0)
        assert batch.first_sequence == len(self.stored) + 1
        stored = [StoredEvent(n, b"") for n, _ in enumerate(batch.events, batch.first_sequence)]
        self.batches.append(batch)
        self.stored += stored
        return stored

    async def read(self, run_id: RunId, *, after_sequence: int) -> EventPage:
        self.reads += 1
        events = self.stored[after_sequence : after_sequence + 10]
        ended = END in self.events
        return EventPage(events=events, ended=ended, last_sequence=len(self.stored))

    async def told(self, run_id: RunId) -> Sequence[tuple[float, Event]]:
        raise NotImplementedError


@asynccontextmanager
async def journal(store: Store, feed: Feed | None = None, *, patience_s: float = 5) -> AsyncIterator[Journal]:
    made = Journal(LEASE, store, feed or Feed(), clock=lambda: 0.0, patience_s=patience_s)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(made.run())
        yield made
        made.close()


def write(made: Journal, *events: Event) -> None:
    made.write(events, usage=Usage())


async def test_what_gathers_while_a_batch_is_committed_is_the_next_batch() -> None:
    store = Store()
    store.open.clear()
    async with journal(store) as made:
        write(made, Started("tiny"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for letter in "abc":
            write(made, Delta(letter))
        write(made, ToolOutput("c", Channel.STDOUT, "1"), ToolOutput("c", Channel.STDOUT, "2"))
        store.open.set()
        await made.committed()
        assert [list(batch.events) for batch in store.batches] == [
            [Started("tiny")],
            [Delta("abc"), ToolOutput("c", Channel.STDOUT, "12")],
        ]


async def test_the_writer_waits_only_once_the_store_is_far_behind() -> None:
    store = Store()
    store.open.clear()
    async with journal(store) as made:
        write(made, Started("tiny"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        write(made, Delta("x" * GATHERED_CHARS_MAX))
        async with asyncio.timeout(30):
            await made.room()
        write(made, Delta("y"))
        waiting = asyncio.create_task(made.room())
        await asyncio.wait({waiting}, timeout=0.05)
        assert not waiting.done()
        store.open.set()
        await waiting
        assert len(store.events) == 2


async def never(call_id: str) -> bool:
    raise NotImplementedError


async def test_no_tool_is_called_before_its_call_is_committed() -> None:
    store = Store()
    async with journal(store) as made:
        recorder = RunRecorder(
            Run(model="tiny", limits=Limits()),
            made,
            record=Record(),
            observed=unobserved_run(),
            taint=Taint(run_tools=(), trusted_tools=()),
            claim=never,
            approval_wait_s=1.0,
            clock=lambda: 0.0,
        )
        recorder.begin("?")
        recorder.ask()
        store.open.clear()
        call = ToolCall(call_id="c", name="run_python", arguments_json="{}")
        answer = Answer(calls=(call,), prompt_token_count=1, output_token_count=1, truncated=False)
        answering = asyncio.create_task(recorder.answer(answer))
        await asyncio.wait({answering}, timeout=0.05)
        assert not answering.done()
        store.open.set()
        await answering
        assert ToolCalled(call) in store.events
        recorder.end(CANCELLED)


async def test_a_short_absence_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.agent.patience.RETRY_EVERY_S", 0.001)
    store = Store()
    store.failures = [StoreUnavailable(), StoreUnavailable()]
    async with journal(store) as made:
        write(made, Started("tiny"))
        await made.committed()
    assert store.events == [Started("tiny")]


@pytest.mark.parametrize("failure", [StoreUnavailable(), LeaseLost()])
async def test_an_absence_longer_than_the_lease_gives_the_run_up(failure: Exception) -> None:
    store = Store()
    store.failures = [failure]

    async def tell() -> None:
        async with journal(store, patience_s=0) as made:
            write(made, Started("tiny"))
            await made.committed()

    with pytest.raises(ExceptionGroup) as caught:
        await tell()
    assert caught.group_contains(LeaseLost)


async def test_closing_commits_what_is_left() -> None:
    store = Store()
    async with journal(store) as made:
        write(made, Started("tiny"), END)
    assert store.events == [Started("tiny"), END]


async def watched(watches: Watches, after: int) -> list[int]:
    return [event.sequence async for event in watches.watch(RUN, after_sequence=after)]


async def test_a_watcher_of_a_run_that_works_here_reads_nothing_from_the_store() -> None:
    store, feed = Store(), Feed()
    watches = Watches(store)
    watches.add(RUN, feed)
    async with journal(store, feed) as made:
        watching = [asyncio.create_task(watched(watches, after)) for after in (0, 1, 3, 99)]
        for n in range(3):
            write(made, Delta(str(n)))
            await made.committed()
        write(made, END)
    assert [await watcher for watcher in watching] == [[1, 2, 3, 4], [2, 3, 4], [4], []]
    assert store.reads == 0


async def test_a_watcher_that_fell_behind_finds_the_rest_in_the_store() -> None:
    store, feed = Store(), Feed()
    watches = Watches(store)
    watches.add(RUN, feed)
    async with journal(store, feed) as made:
        slow = aiter(watches.watch(RUN, after_sequence=0))
        write(made, Started("tiny"))
        assert (await anext(slow)).sequence == 1
        for _ in range(KEPT_MAX + 20):
            write(made, Delta("x"))
            await made.committed()
        write(made, END)
    rest = [event.sequence async for event in slow]
    assert rest == list(range(2, KEPT_MAX + 23))
    assert 0 < store.reads < 10, "it catches up, and is shown the rest from memory"


async def test_watchers_of_a_run_that_leaves_this_replica_go_on_with_the_store() -> None:
    store, feed = Store(), Feed()
    watches = Watches(store)
    watches.add(RUN, feed)
    watching = asyncio.create_task(watched(watches, 0))
    await asyncio.sleep(0)
    watches.remove(RUN)
    await store.append(LEASE, Batch(first_sequence=1, time_s=0, events=[END], messages=[], usage=Usage()))
    async with asyncio.timeout(30):
        assert await watching == [1]
