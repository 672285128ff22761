"""What is remembered of the sandbox sessions of threads, in PostgreSQL and in the fake of it."""

import pytest

from services.agent.adapters.postgres_thread_sessions import PostgresThreadSessions
from services.agent.adapters.thread_sessions import Begun, Place, ThreadSessions
from services.agent.core.ids import RunId, ThreadId
from services.agent.errors import ThreadNotFound
from tests.contract.agent_replica import ANN, BOB, OTHER_ANN, Replica, replica
from tests.fakes.thread_sessions import FakeThreadSessions

__all__ = ["replica"]

PLACE = Place("sandbox-1:50054", "s1")


@pytest.fixture(params=["postgres", "fake"])
def store(request: pytest.FixtureRequest, replica: Replica) -> ThreadSessions:
    return PostgresThreadSessions(replica.database) if request.param == "postgres" else FakeThreadSessions()


async def thread_with_a_run(replica: Replica) -> tuple[ThreadId, RunId]:
    thread_id = await replica.thread()
    return thread_id, (await replica.accept(thread_id)).run_id


async def test_a_thread_has_the_session_that_it_was_given_last(
    replica: Replica, store: ThreadSessions
) -> None:
    thread_id, _ = await thread_with_a_run(replica)
    assert await store.find(ANN, thread_id) is None
    await store.keep(ANN, thread_id, PLACE)
    assert await store.find(ANN, thread_id) == PLACE
    await store.keep(ANN, thread_id, other := Place("sandbox-2:50054", "s2"))
    assert await store.find(ANN, thread_id) == other
    for somebody in (BOB, OTHER_ANN):
        assert await store.find(somebody, thread_id) is None


async def test_a_call_that_was_begun_is_known_again(replica: Replica, store: ThreadSessions) -> None:
    thread_id, run_id = await thread_with_a_run(replica)
    assert await store.begin(ANN, thread_id, f"{run_id}:call_1_0") == Begun(None, None)
    await store.keep(ANN, thread_id, PLACE)
    assert await store.begin(ANN, thread_id, f"{run_id}:call_1_1") == Begun(PLACE, None)
    again = await store.begin(ANN, thread_id, f"{run_id}:call_1_0")
    assert again.place == PLACE
    assert again.begun_s_ago is not None
    assert 0 <= again.begun_s_ago < 60


async def test_only_sessions_that_no_run_uses_may_end(replica: Replica, store: ThreadSessions) -> None:
    if isinstance(store, FakeThreadSessions):
        pytest.skip("it is told which threads are busy")
    busy, _ = await thread_with_a_run(replica)
    idle, other = await replica.thread(), await replica.thread(BOB)
    for owner, thread_id, session_id in ((ANN, busy, "s1"), (ANN, idle, "s2"), (BOB, other, "s3")):
        await store.keep(owner, thread_id, Place(PLACE.target, session_id))
    assert await store.unused(ANN, PLACE.target, ["s1", "s2", "s3", "own"]) == {"s2"}
    assert await store.unused(ANN, PLACE.target, ["s1"]) == set()
    assert await store.unused(ANN, "sandbox-2:50054", ["s2"]) == set()


async def test_of_a_thread_that_is_gone_nothing_is_kept(replica: Replica) -> None:
    store = PostgresThreadSessions(replica.database)
    thread_id, run_id = await thread_with_a_run(replica)
    await store.keep(ANN, thread_id, PLACE)
    for nobody in (OTHER_ANN,):
        with pytest.raises(ThreadNotFound):
            await store.keep(nobody, thread_id, PLACE)
        with pytest.raises(ThreadNotFound):
            await store.begin(nobody, thread_id, f"{run_id}:call_1_0")
    await replica.threads.delete(ANN, thread_id)
    assert await store.find(ANN, thread_id) is None
    with pytest.raises(ThreadNotFound):
        await store.begin(ANN, thread_id, f"{run_id}:call_1_0")
    with pytest.raises(ThreadNotFound):
        await store.keep(ANN, thread_id, PLACE)
