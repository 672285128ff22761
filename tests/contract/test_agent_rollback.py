"""What is taken back of a thread in PostgreSQL, while later runs of it may begin."""

import asyncio

import pytest

from services.agent.core.conversation import Message, Role
from services.agent.core.events import Started, Status
from services.agent.core.ids import RunId
from services.agent.errors import RunBuiltUpon
from services.common.postgres import Database
from tests.contract.agent_replica import ANN, Replica, finished, replica

__all__ = ["replica"]

SAID = [Message(role=Role.USER, content="why?")]
WAITING = """
    SELECT 1 FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE $1
"""


async def test_what_was_rolled_back_as_it_ended_stays_so_when_the_next_run_has_begun(
    replica: Replica,
) -> None:
    thread_id = await replica.thread()
    first, later = await replica.accept(thread_id), await replica.accept(thread_id)
    await replica.begin(first.run_id)
    await replica.tell(first.run_id, Started("tiny"), messages=SAID)
    await replica.runs.request_cancel(first.run_id, rollback=True)
    await replica.tell(first.run_id, finished(Status.CANCELLED), after=1)
    assert await replica.begin(later.run_id)
    await replica.tell(later.run_id, Started("tiny"), messages=SAID)
    await replica.runs.roll_back(first.run_id)  # As its caller does, who waited for its end.
    assert (await replica.threads.find(ANN, thread_id)).message_count == 1
    history = await replica.leases.history((await replica.accept(thread_id)).run_id, count_max=9)
    assert (list(history.messages), history.is_whole) == (SAID, False)


async def test_what_the_next_run_has_read_cannot_be_rolled_back(replica: Replica) -> None:
    thread_id = await replica.thread()
    first, later = await replica.accept(thread_id), await replica.accept(thread_id)
    await replica.tell(first.run_id, Started("tiny"), finished(), messages=SAID)
    assert await replica.begin(later.run_id)
    with pytest.raises(RunBuiltUpon):
        await replica.runs.roll_back(first.run_id)


async def test_a_run_begins_before_what_it_would_read_is_rolled_back_or_after(replica: Replica) -> None:
    """Were it to begin in between, it would have read what nobody said any more."""
    thread_id = await replica.thread()
    first, later = await replica.accept(thread_id), await replica.accept(thread_id)
    await replica.tell(first.run_id, Started("tiny"), finished(), messages=SAID)
    # Whoever rolls back is held up once it has looked whether anybody has begun.
    async with replica.database.transaction(system=True) as blocker:
        await blocker.execute("SELECT 1 FROM messages WHERE run_id = $1 FOR UPDATE", first.run_id)
        rolling = asyncio.create_task(replica.runs.roll_back(first.run_id))
        await _waits(replica.database, "DELETE FROM messages")
        beginning = asyncio.create_task(_begun_and_read(replica, later.run_id))
        await asyncio.wait({beginning}, timeout=0.5)
    await rolling
    assert await beginning == 0


async def _begun_and_read(replica: Replica, run_id: RunId) -> int:
    assert await replica.begin(run_id)
    return len((await replica.leases.history(run_id, count_max=9)).messages)


async def _waits(database: Database, for_what: str) -> None:
    async with asyncio.timeout(30):
        while True:
            async with database.connection() as connection:
                if await connection.fetchval(WAITING, f"%{for_what}%"):
                    return
            await asyncio.sleep(0.01)
