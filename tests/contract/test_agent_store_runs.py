"""What runs and their events may rely on in PostgreSQL, with two replicas at it."""

import asyncio
from uuid import uuid4

import asyncpg
import pytest
from ollamesh.agent.v1.run_pb2 import RunEvent

from services.agent.adapters.postgres_events import PAGE_SIZE
from services.agent.adapters.postgres_leases import ADOPT
from services.agent.core.budget import Usage
from services.agent.core.conversation import Message, Role, ToolCall
from services.agent.core.events import Delta, Started, Status
from services.agent.core.ids import RunId
from services.agent.errors import (
    LeaseLost,
    RunNotFound,
    ThreadBusy,
)
from services.agent.leases import History
from services.agent.ports import Batch, Busy, PageRequest, RunRecord
from tests.contract.agent_replica import (
    ANN,
    CONFIG,
    LEASE_S,
    Replica,
    execute,
    finished,
    other,
    replica,
)
from tests.stack import Database as Migrated

__all__ = ["other", "replica"]


async def test_runs_of_a_thread_work_one_after_the_other(replica: Replica, other: Replica) -> None:
    thread_id = await replica.thread()
    first, second = await replica.accept(thread_id), await other.accept(thread_id)
    elsewhere = await other.accept(await replica.thread())
    assert not await other.begin(second.run_id)
    assert await replica.begin(first.run_id)
    assert await replica.begin(first.run_id), "whoever lost the reply asks again"
    assert not await other.begin(second.run_id)
    assert await other.begin(elsewhere.run_id), "other threads go on"
    await replica.tell(first.run_id, finished())
    assert await other.begin(second.run_id)
    found = await replica.runs.find(ANN, second.run_id)
    assert found.status is Status.RUNNING
    assert found.start_time is not None


async def test_fifty_racing_acceptances_begin_in_the_order_of_their_positions(
    replica: Replica, other: Replica
) -> None:
    thread_id = await replica.thread()
    await asyncio.gather(*(side.accept(thread_id) for side in (replica, other) for _ in range(25)))
    runs = await replica.runs.unfinished(ANN, thread_id)
    assert len(runs) == 50
    begun = [run_id for run_id in runs for side in (replica, other) if await _begins(side, run_id)]
    assert begun == [runs[0]], "only the first may"


async def _begins(side: Replica, run_id: RunId) -> bool:
    try:
        return await side.begin(run_id)
    except LeaseLost:  # The other side's.
        return False


async def test_of_racing_runs_that_want_the_thread_idle_one_gets_it(replica: Replica, other: Replica) -> None:
    for _ in range(5):
        thread_id = await replica.thread()
        sides = [side for side in (replica, other) for _ in range(4)]
        results = await asyncio.gather(
            *(side.accept(thread_id, busy=Busy.REJECT) for side in sides), return_exceptions=True
        )
        accepted = [result for result in results if isinstance(result, RunRecord)]
        refused = [result for result in results if isinstance(result, ThreadBusy)]
        assert (len(accepted), len(refused)) == (1, 7)
        assert {refusal.facts["run_id"] for refusal in refused} == {str(accepted[0].run_id)}


async def test_a_batch_is_events_messages_and_end_at_once(replica: Replica) -> None:
    thread_id = await replica.thread()
    run = await replica.accept(thread_id)
    said = [
        Message(role=Role.USER, content="why?"),
        Message(
            role=Role.ASSISTANT,
            content="\0",
            calls=(ToolCall(call_id="c", name="run_python", arguments_json="{}"),),
        ),
        Message(role=Role.TOOL, content="1", call_id="c", tool_name="run_python"),
    ]
    await replica.tell(run.run_id, Started("tiny"), Delta("a"), messages=said[:1])
    later = await replica.accept(thread_id)
    end = finished(Status.FAILED, reason="MODEL_FAILED", message="no \0")
    await replica.tell(run.run_id, Delta("b"), end, after=2, messages=said[1:])
    found = await replica.runs.find(ANN, run.run_id)
    assert (found.status, found.outcome, found.last_sequence) == (Status.FAILED, end, 4)
    assert found.end_time is not None
    assert await replica.leases.history(later.run_id, count_max=9) == History(messages=said, is_whole=True)
    assert await replica.leases.history(later.run_id, count_max=2) == History(
        messages=said[1:], is_whole=False
    )
    page = await replica.threads.messages(ANN, thread_id, PageRequest(size=2, after=None))
    rest = await replica.threads.messages(ANN, thread_id, PageRequest(size=2, after=page.next_after))
    assert [record.message for record in [*page.items, *rest.items]] == said
    assert rest.next_after is None
    thread = await replica.threads.find(ANN, thread_id)
    assert (thread.message_count, thread.failed, thread.active_run_id) == (3, True, later.run_id)
    assert [event for _, event in await replica.events.told(run.run_id)] == [
        Started("tiny"),
        Delta("a"),
        Delta("b"),
        end,
    ]


async def test_events_are_read_from_anywhere_in_pages(replica: Replica) -> None:
    run = await replica.accept(await replica.thread())
    count = PAGE_SIZE + 5
    stored = await replica.events.append(
        replica.lease(run.run_id),
        Batch(
            first_sequence=1,
            time_s=2.0,
            events=[Delta(str(n)) for n in range(count)],
            messages=[],
            usage=Usage(),
        ),
    )
    first = await replica.events.read(run.run_id, after_sequence=0)
    assert list(first.events) == list(stored[:PAGE_SIZE])
    rest = await replica.events.read(run.run_id, after_sequence=PAGE_SIZE)
    assert (list(rest.events), rest.ended, rest.last_sequence) == (list(stored[PAGE_SIZE:]), False, count)
    beyond = await replica.events.read(run.run_id, after_sequence=10**15)
    assert (list(beyond.events), beyond.last_sequence) == ([], count)
    numbered = [RunEvent.FromString(event.payload).sequence for event in stored]
    assert numbered == [event.sequence for event in stored] == list(range(1, count + 1))
    with pytest.raises(RunNotFound):
        await replica.events.read(RunId(uuid4()), after_sequence=0)


async def test_appending_again_what_was_committed_changes_nothing(replica: Replica) -> None:
    """As after a reply that was lost on its way."""
    thread_id = await replica.thread()
    run = await replica.accept(thread_id)
    said = [Message(role=Role.USER, content="why?")]
    for _ in range(2):
        await replica.tell(run.run_id, Started("tiny"), Delta("a"), messages=said)
    for _ in range(2):
        await replica.tell(run.run_id, finished(), after=2)
    page = await replica.events.read(run.run_id, after_sequence=0)
    assert [event.sequence for event in page.events] == [1, 2, 3]
    assert (await replica.threads.find(ANN, thread_id)).message_count == 1


async def test_nothing_follows_the_end(replica: Replica) -> None:
    run = await replica.accept(await replica.thread())
    await replica.tell(run.run_id, finished())
    with pytest.raises(LeaseLost):
        await replica.tell(run.run_id, finished(), after=1)
    with pytest.raises(LeaseLost):
        await replica.begin(run.run_id)


async def test_a_run_whose_lease_ran_out_is_taken_over_once(
    replica: Replica, other: Replica, database: Migrated
) -> None:
    thread_id = await replica.thread()
    runs, ended = [await replica.accept(thread_id) for _ in range(20)], await replica.accept(thread_id)
    await replica.tell(ended.run_id, finished())
    assert await replica.begin(runs[0].run_id)
    assert await other.adopt() == [], "its holder is well"
    await execute(database, "UPDATE runs SET lease_until = now() - interval '1 s'")
    adopted = await asyncio.gather(*(other.adopt() for _ in range(8)))
    orphans = [orphan for part in adopted for orphan in part]
    assert sorted(orphan.lease.run_id for orphan in orphans) == sorted(run.run_id for run in runs)
    assert {(orphan.config, orphan.question, orphan.owner) for orphan in orphans} == {(CONFIG, "why?", ANN)}
    assert {orphan.lease.fence for orphan in orphans} == {2}
    run = runs[0]
    lost = [orphan.lease.run_id for orphan in orphans if orphan.attempt_count]
    assert lost == [run.run_id], "a run that only waited is no reason why a replica was lost"
    assert await replica.leases.keep([replica.lease(run.run_id)]) == {}
    for void in (replica.tell(run.run_id, Started("tiny")), replica.begin(run.run_id)):
        with pytest.raises(LeaseLost):
            await void
    with pytest.raises(LeaseLost):
        await other.tell(run.run_id, Started("tiny"))  # As by a worker of before, in the same process.
    await other.tell(run.run_id, finished(Status.FAILED, reason="RUN_LOST"), fence=2)


async def test_a_run_that_is_being_taken_over_is_left_alone(
    replica: Replica, other: Replica, database: Migrated
) -> None:
    await replica.accept(await replica.thread())
    await execute(database, "UPDATE runs SET lease_until = now() - interval '1 s'")
    of_batches = False
    async with replica.database.transaction(system=True) as connection, asyncio.timeout(30):
        assert len(await connection.fetch(ADOPT, replica.holder, LEASE_S, 9, of_batches)) == 1
        assert await other.adopt() == []
    assert await other.adopt() == []


async def test_where_there_is_no_room_only_what_others_wait_for_is_taken_over(
    replica: Replica, other: Replica, database: Migrated
) -> None:
    waits, begun, cancelled = [await replica.accept(await replica.thread()) for _ in range(3)]
    assert await replica.begin(begun.run_id)
    await replica.runs.request_cancel(cancelled.run_id, rollback=False)
    await execute(database, "UPDATE runs SET lease_until = now() - interval '1 s'")
    taken = [
        {held.lease.run_id for held in await other.leases.adopt(**room)}
        for room in (
            {"count_max": 0, "batch_count_max": 0, "urgent_count_max": 9},
            {"count_max": 9, "batch_count_max": 0, "urgent_count_max": 9},
        )
    ]
    assert taken == [{begun.run_id, cancelled.run_id}, {waits.run_id}]


async def test_a_renewed_lease_holds_and_tells_of_cancellation(
    replica: Replica, other: Replica, database: Migrated
) -> None:
    run = await replica.accept(await replica.thread())
    await execute(database, "UPDATE runs SET lease_until = now() - interval '1 s'")
    leases = [replica.lease(run.run_id), replica.lease(RunId(uuid4()))]
    assert await replica.leases.keep(leases) == {run.run_id: False}
    assert await other.adopt() == []
    await other.runs.request_cancel(run.run_id, rollback=False)
    assert await replica.leases.keep(leases) == {run.run_id: True}


async def test_the_database_itself_refuses_two_at_work(database: Migrated, replica: Replica) -> None:
    """The second wall, should a replica ever ask for it."""
    thread_id = await replica.thread()
    for _ in range(2):
        await replica.accept(thread_id)
    with pytest.raises(asyncpg.UniqueViolationError):
        await execute(database, "UPDATE runs SET status = 'RUNNING'")
