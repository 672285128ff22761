"""What a thread is read as by the runs to come, on real PostgreSQL."""

import pytest

from services.agent.adapters.postgres_summaries import PostgresSummaries
from services.agent.core.conversation import Message, Role
from services.agent.core.events import Started
from services.agent.core.ids import RunId, ThreadId
from services.agent.summaries import Kept
from tests.contract.agent_replica import ANN, Replica, finished, replica

__all__ = ["replica"]


@pytest.fixture
def summaries(replica: Replica) -> PostgresSummaries:
    return PostgresSummaries(replica.database)


async def run_that_says(replica: Replica, thread_id: ThreadId, count: int, *, ends: bool = True) -> RunId:
    run = await replica.accept(thread_id)
    said = [Message(role=Role.USER, content=f"{n}") for n in range(count)]
    await replica.tell(run.run_id, Started("tiny"), *([finished()] if ends else []), messages=said)
    return run.run_id


async def test_later_runs_read_what_was_kept_and_what_is_newer(
    replica: Replica, summaries: PostgresSummaries
) -> None:
    thread_id = await replica.thread()
    await run_that_says(replica, thread_id, 4)
    keeper = await run_that_says(replica, thread_id, 2, ends=False)
    assert await summaries.find(keeper) is None
    await summaries.keep(keeper, Kept(text="All \0 was said.", newer_count=1))
    assert await summaries.find(keeper) == Kept(text="All \0 was said.", newer_count=1), (
        "its own do not count"
    )
    later = await run_that_says(replica, thread_id, 1)
    assert await summaries.find(later) == Kept(text="All \0 was said.", newer_count=3)


async def test_the_one_that_covers_more_stays(replica: Replica, summaries: PostgresSummaries) -> None:
    thread_id = await replica.thread()
    await run_that_says(replica, thread_id, 4)
    run_id = await run_that_says(replica, thread_id, 1, ends=False)
    for text, newer_count in (("two", 2), ("three", 1), ("one", 3)):
        await summaries.keep(run_id, Kept(text=text, newer_count=newer_count))
    assert await summaries.find(run_id) == Kept(text="three", newer_count=1)


async def test_more_than_there_is_covers_nothing(replica: Replica, summaries: PostgresSummaries) -> None:
    run_id = await run_that_says(replica, await replica.thread(), 2, ends=False)
    await summaries.keep(run_id, Kept(text="nothing", newer_count=0))
    assert await summaries.find(run_id) is None, "there are no earlier runs"


async def test_who_thinks_that_its_run_works_still_keeps_nothing(
    replica: Replica, summaries: PostgresSummaries
) -> None:
    """It counts from the newest message that it knows of: what was said since would be taken for covered."""
    thread_id = await replica.thread()
    await run_that_says(replica, thread_id, 2)
    lost = await run_that_says(replica, thread_id, 0)
    later = await run_that_says(replica, thread_id, 2)
    await summaries.keep(lost, Kept(text="the first two", newer_count=0))
    assert await summaries.find(later) is None


async def test_it_goes_with_its_thread(replica: Replica, summaries: PostgresSummaries) -> None:
    thread_id = await replica.thread()
    await run_that_says(replica, thread_id, 2)
    run_id = await run_that_says(replica, thread_id, 1, ends=False)
    await summaries.keep(run_id, Kept(text="gone", newer_count=0))
    await replica.threads.delete(ANN, thread_id)
    assert await summaries.find(run_id) is None
    async with replica.database.connection(system=True) as connection:
        assert await connection.fetchval("SELECT count(*) FROM thread_summaries WHERE summary = 'gone'") == 0
