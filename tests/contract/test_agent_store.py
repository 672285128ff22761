"""What threads and requests may rely on in PostgreSQL."""

import asyncio
from uuid import uuid4

import asyncpg
import pytest

from services.agent.core.conversation import Message, Role
from services.agent.core.events import Started, Status
from services.agent.core.ids import Owner, ThreadId
from services.agent.errors import (
    LeaseLost,
    RequestIdReused,
    RunNotFound,
    ThreadBusy,
    ThreadNotFound,
)
from services.agent.ports import Busy, PageRequest, ThreadRecord
from services.common.errors import StoreBusy, StoreUnavailable
from services.common.postgres import Database
from tests.contract.agent_replica import (
    ANN,
    BOB,
    CONFIG,
    LONG_AGO,
    OTHER_ANN,
    Replica,
    execute,
    finished,
    other,
    replica,
    retry,
)
from tests.stack import Database as Migrated

__all__ = ["other", "replica"]


async def test_a_thread_is_kept_as_it_was_given(replica: Replica) -> None:
    labels = {"colour": "blue", "odd": "\0"}
    made = await replica.threads.create(ANN, ThreadId(uuid4()), "na\0me", labels, None)
    found = await replica.threads.find(ANN, made.thread_id)
    assert found == made
    assert (found.display_name, found.labels) == ("na\0me", labels)
    assert (found.active_run_id, found.failed, found.message_count) == (None, False, 0)


@pytest.mark.parametrize("stranger", [BOB, OTHER_ANN])
async def test_to_others_nothing_exists(replica: Replica, stranger: Owner) -> None:
    thread_id = await replica.thread()
    run = await replica.accept(thread_id)
    page = PageRequest(size=9, after=None)
    with pytest.raises(ThreadNotFound):
        await replica.threads.find(stranger, thread_id)
    with pytest.raises(ThreadNotFound):
        await replica.threads.messages(stranger, thread_id, page)
    with pytest.raises(ThreadNotFound):
        await replica.runs.page(stranger, thread_id, page)
    with pytest.raises(ThreadNotFound):
        await replica.accept(thread_id, stranger)
    with pytest.raises(RunNotFound):
        await replica.runs.find(stranger, run.run_id)
    assert await replica.runs.unfinished(stranger, thread_id) == []
    assert (await replica.threads.page(stranger, page)).items == []
    await replica.threads.delete(stranger, thread_id)
    assert (await replica.threads.find(ANN, thread_id)).thread_id == thread_id


async def test_lists_are_whole_and_in_order_whatever_the_page(replica: Replica) -> None:
    threads = [await replica.thread() for _ in range(5)]
    await replica.thread(BOB)
    for size in (1, 2, 5, 6):
        found: list[ThreadRecord] = []
        after: int | None = None
        while True:
            page = await replica.threads.page(ANN, PageRequest(size=size, after=after))
            assert len(page.items) <= size
            found += page.items
            if (after := page.next_after) is None:
                break
        assert [thread.thread_id for thread in found] == threads[::-1]


async def test_an_accepted_run_is_whole(replica: Replica) -> None:
    thread_id = await replica.thread()
    run = await replica.accept(thread_id)
    assert await replica.runs.find(ANN, run.run_id) == run
    assert (run.config, run.status, run.outcome, run.last_sequence) == (CONFIG, Status.PENDING, None, 0)
    assert (await replica.threads.find(ANN, thread_id)).active_run_id == run.run_id


async def test_a_repeated_request_finds_what_it_made(replica: Replica) -> None:
    thread_id = await replica.thread()
    first = await replica.accept(thread_id, retry=retry())
    assert await replica.accept(thread_id, retry=retry()) == first
    assert await replica.runs.repeated(ANN, retry()) == first
    assert await replica.runs.repeated(BOB, retry()) is None, "ids are each caller's own"
    with pytest.raises(RequestIdReused):
        await replica.accept(thread_id, retry=retry(body=b"2"))
    with pytest.raises(RequestIdReused):
        await replica.threads.create(ANN, ThreadId(uuid4()), "", {}, retry(body=b"2"))
    assert len((await replica.runs.page(ANN, thread_id, PageRequest(size=9, after=None))).items) == 1


async def test_racing_twins_make_one_run(replica: Replica, other: Replica) -> None:
    thread_id = await replica.thread()
    runs = await asyncio.gather(
        *(side.accept(thread_id, retry=retry()) for side in (replica, other) for _ in range(4))
    )
    assert len({run.run_id for run in runs}) == 1
    assert len((await replica.runs.page(ANN, thread_id, PageRequest(size=9, after=None))).items) == 1


async def test_a_refused_request_may_come_again(replica: Replica) -> None:
    thread_id = await replica.thread()
    busy = await replica.accept(thread_id)
    with pytest.raises(ThreadBusy) as refusal:
        await replica.accept(thread_id, retry=retry(), busy=Busy.REJECT)
    assert refusal.value.facts == {"run_id": str(busy.run_id)}
    await replica.tell(busy.run_id, finished())
    assert (await replica.accept(thread_id, retry=retry(), busy=Busy.REJECT)).status is Status.PENDING


async def test_a_request_is_forgotten_after_a_day(replica: Replica, database: Migrated) -> None:
    thread_id = await replica.thread()
    first = await replica.accept(thread_id, retry=retry())
    await execute(database, f"UPDATE requests SET create_time = {LONG_AGO}")
    assert await replica.runs.repeated(ANN, retry()) is None
    assert await replica.accept(thread_id, retry=retry(body=b"2")) != first
    await execute(database, f"UPDATE requests SET create_time = {LONG_AGO}")
    await replica.runs.tidy()
    connection = await asyncpg.connect(database.system("agent"))
    assert await connection.fetchval("SELECT count(*) FROM requests") == 0
    await connection.close()


async def test_deleting_a_thread_leaves_nothing(replica: Replica, database: Migrated) -> None:
    thread_id = await replica.thread()
    run = await replica.accept(thread_id, retry=retry())
    await replica.tell(run.run_id, Started("tiny"), messages=[Message(role=Role.USER, content="why?")])
    await replica.threads.delete(ANN, thread_id)
    await replica.threads.delete(ANN, thread_id)
    with pytest.raises(LeaseLost):
        await replica.tell(run.run_id, finished(), after=1)
    with pytest.raises(ThreadNotFound):  # The request that made the run is forgotten as well.
        await replica.accept(thread_id, retry=retry())
    connection = await asyncpg.connect(database.system("agent"))
    for table in ("threads", "runs", "run_events", "messages"):
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0, table
    await connection.close()


async def test_an_absent_store_is_one_failure(unused_tcp_port: int) -> None:
    async with Database.connect(
        f"postgresql://agent:hunter2@127.0.0.1:{unused_tcp_port}/none", connections_max=1
    ) as absent:
        assert not await absent.answers()
        with pytest.raises(StoreUnavailable) as failure:
            await Replica(absent, uuid4()).threads.find(ANN, ThreadId(uuid4()))
    assert "hunter2" not in str(failure.value)


async def test_a_full_pool_refuses_in_time(
    replica: Replica, database: Migrated, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Database.connect(database("agent"), connections_max=1) as small, small.connection():
        monkeypatch.setattr("services.common.postgres.WAIT_S_MAX", 0.05)
        with pytest.raises(StoreBusy):
            await Replica(small, uuid4()).threads.find(ANN, ThreadId(uuid4()))
