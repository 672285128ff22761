"""What LangGraph, and a run, may rely on in our checkpointer: the suite of its makers, and what we add to it."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.test_utils import generate_checkpoint, generate_metadata

from services.agent.adapters.checkpoints import SEAL_PURPOSE, Checkpoints
from services.agent.core.ids import RunId
from services.agent.errors import LeaseLost
from services.agent.leases import Lease
from services.common.errors import StoreUnavailable
from services.common.postgres import WAIT_S_MAX, Database
from services.common.seals import Seals
from tests.contract.agent_replica import ANN, BOB, OTHER_ANN, Replica, execute
from tests.contract.checkpoint_rig import (
    KEY,
    MESSAGES,
    SECRET,
    checkpoint_id,
    connected,
    every,
    got,
    put,
    saver,
    stored,
)
from tests.stack import Database as Migrated

__all__ = ["connected", "every", "saver"]


@pytest.fixture
async def replica(connected: Database) -> Replica:
    return Replica(connected, uuid4())


async def test_the_suite_of_langgraphs_makers_whole(saver: Checkpoints) -> None:
    @checkpointer_test("ollamesh")
    async def ours() -> AsyncGenerator[BaseCheckpointSaver[str], None]:
        yield saver

    report = await validate(ours)
    assert {name: result.failures for name, result in report.results.items() if result.failures} == {}
    assert {result.detected for result in report.results.values()} == {True}
    assert sum(result.tests_passed for result in report.results.values()) == 81


async def lease_of(replica: Replica) -> tuple[str, Lease]:
    """A run that the replica holds, as the thread of its checkpoints."""
    run_id = RunId((await replica.accept(await replica.thread())).run_id)
    return str(run_id), replica.lease(run_id)


async def changed(database: Migrated, run_id: UUID, change: str) -> None:
    await execute(database, f"UPDATE runs SET {change} WHERE run_id = '{run_id}'")


LOST = {
    "another holder": "holder = gen_random_uuid()",
    "nobody": "holder = NULL",
    "the same holder, later": "fence = fence + 1",
    "an end": "status = 'FAILED', end_time = now(), outcome = ''",
}


@pytest.mark.parametrize("change", LOST)
async def test_who_has_lost_a_run_writes_nothing_more(
    every: Checkpoints, replica: Replica, database: Migrated, change: str
) -> None:
    thread_id, lease = await lease_of(replica)
    held = every.of(ANN.organization_id, lease)
    config = await put(held, thread_id, messages=MESSAGES)
    await held.aput_writes(config, [("messages", SECRET)], "task")
    await changed(database, lease.run_id, LOST[change])
    with pytest.raises(LeaseLost):
        await put(held, thread_id, parent=checkpoint_id(config), messages=MESSAGES[:1])
    with pytest.raises(LeaseLost):
        await held.aput_writes(config, [("messages", SECRET)], "task 2")
    (found,) = [one async for one in held.alist(None)]
    assert (found.config, len(found.pending_writes or ())) == (config, 1)
    assert len(await stored(database, "SELECT 1 FROM checkpoint_blobs")) == 1


async def test_who_writes_while_the_run_changes_hands_comes_before_or_never(
    every: Checkpoints, replica: Replica, database: Migrated
) -> None:
    thread_id, lease = await lease_of(replica)
    held = every.of(ANN.organization_id, lease)
    taker = await asyncpg.connect(database.system("agent"))
    async with taker.transaction():
        await taker.execute("UPDATE runs SET fence = fence + 1 WHERE run_id = $1", lease.run_id)
        writing = asyncio.create_task(put(held, thread_id, messages=MESSAGES))
        waiting = (
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        async with asyncio.timeout(30):
            while not await stored(database, waiting):
                await asyncio.sleep(0.01)
    with pytest.raises(LeaseLost):
        await writing
    await taker.close()
    assert await stored(database, "SELECT 1 FROM checkpoints") == []


async def test_a_write_waits_for_a_store_that_is_away_for_so_long(database: Migrated) -> None:
    seals = Seals([KEY], purpose=SEAL_PURPOSE)
    async with Database.connect(
        "postgresql://nobody@127.0.0.1:1/none", connections_max=1, connect_s_max=0.1
    ) as away:
        with pytest.raises(StoreUnavailable):
            await put(Checkpoints(away, seals).of("org", None))
        with pytest.raises(LeaseLost):
            await put(Checkpoints(away, seals, patience_s=0.3).of("org", None))


async def test_values_that_nothing_names_any_more_are_removed(saver: Checkpoints, database: Migrated) -> None:
    first = await put(saver, messages=MESSAGES)
    last = await put(saver, parent=checkpoint_id(first), messages=MESSAGES[:1])
    await put(saver, "else", messages=MESSAGES)
    await saver.aprune(["t"])
    left = await stored(database, "SELECT thread_id FROM checkpoint_blobs ORDER BY 1")
    assert [row["thread_id"] for row in left] == ["else", "t"]
    assert (await got(saver, last)).checkpoint["channel_values"] == {"messages": MESSAGES[:1]}
    await saver.adelete_thread("t")
    await saver.adelete_thread("else")
    assert await stored(database, "SELECT 1 FROM checkpoint_blobs") == []


async def test_values_of_runs_that_are_forgotten_go_and_those_of_others_stay(
    saver: Checkpoints, database: Migrated
) -> None:
    kept = {}
    for run_id in ("one", "two"):
        versions = {"messages": saver.get_next_version(None, None)}
        checkpoint = generate_checkpoint(
            channel_values={"messages": MESSAGES}, channel_versions=dict(versions)
        )
        config: RunnableConfig = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
        kept[run_id] = await saver.aput(config, checkpoint, generate_metadata(run_id=run_id), dict(versions))
    await saver.adelete_for_runs(["one"])
    assert len(await stored(database, "SELECT 1 FROM checkpoint_blobs")) == 1
    assert await got(saver, kept["two"])


async def test_a_copy_opens_and_lives_on_its_own(saver: Checkpoints) -> None:
    config = await put(saver, messages=MESSAGES)
    await saver.aput_writes(config, [("messages", SECRET)], "task", "path")
    await saver.acopy_thread("t", "u")
    await saver.adelete_thread("t")
    (found,) = [one async for one in saver.alist({"configurable": {"thread_id": "u"}})]
    assert found.checkpoint["channel_values"] == {"messages": MESSAGES}
    assert found.pending_writes == [("task", "messages", SECRET)]


@pytest.mark.parametrize("deleted", ["runs", "threads"])
async def test_a_runs_checkpoints_go_with_it(
    every: Checkpoints, replica: Replica, database: Migrated, deleted: str
) -> None:
    thread_id, lease = await lease_of(replica)
    other_id, other = await lease_of(replica)
    for name, held in ((thread_id, lease), (other_id, other)):
        config = await put(every.of(ANN.organization_id, held), name, messages=MESSAGES)
        await every.of(ANN.organization_id, held).aput_writes(config, [("messages", SECRET)], "task")
    which = f"SELECT thread_id FROM runs WHERE run_id = '{lease.run_id}'"
    await execute(database, f"DELETE FROM {deleted} WHERE thread_id = ({which})")
    for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes"):
        assert [row[0] for row in await stored(database, f"SELECT thread_id FROM {table}")] == [other_id]


async def test_versions_rise_and_never_repeat(saver: Checkpoints) -> None:
    version, seen = None, []
    for _ in range(120):
        version = saver.get_next_version(version, None)
        seen.append(version)
    assert seen == sorted(seen)
    assert len({saver.get_next_version(seen[7], None) for _ in range(100)}) == 100


async def test_a_run_that_went_on_from_an_earlier_checkpoint_keeps_what_it_wrote(saver: Checkpoints) -> None:
    start = await put(saver, messages=MESSAGES[:1])
    await put(saver, parent=checkpoint_id(start), messages=["lost"])
    again = await put(saver, parent=checkpoint_id(start), messages=["found"])
    assert (await got(saver, again)).checkpoint["channel_values"] == {"messages": ["found"]}


async def test_a_threads_checkpoints_are_paged_newest_first_for_their_owner_alone(
    every: Checkpoints, replica: Replica
) -> None:
    thread_id = await replica.thread()
    made = []
    for number in range(3):
        run_id = RunId((await replica.accept(thread_id)).run_id)
        lease = replica.lease(run_id)
        view = every.of(ANN.organization_id, lease, step_count=lambda number=number: number)  # type: ignore[misc]
        made.append((checkpoint_id(await put(view, str(run_id), messages=MESSAGES)), run_id, number))
    first = await every.page(ANN, thread_id, size=2, before=None)
    rest = await every.page(ANN, thread_id, size=2, before=first[-1].checkpoint_id)
    told = [(one.checkpoint_id, one.run_id, one.step_count) for one in (*first, *rest)]
    assert told == made[::-1]
    assert all(abs((datetime.now(UTC) - one.create_time).total_seconds()) < 3600 for one in first)
    for stranger in (BOB, OTHER_ANN):
        assert await every.page(stranger, thread_id, size=9, before=None) == []


async def test_a_long_list_is_read_in_parts(saver: Checkpoints) -> None:
    made = [checkpoint_id(await put(saver, note=str(number))) for number in range(120)]
    assert [checkpoint_id(one.config) async for one in saver.alist(None)] == made[::-1]
    assert [checkpoint_id(one.config) async for one in saver.alist(None, limit=70)] == made[:49:-1]
    found = [one async for one in saver.alist(None, filter={"step": 1}, limit=3)]
    assert [checkpoint_id(one.config) for one in found] == made[:-4:-1]


async def test_a_run_waits_for_a_connection_to_read_where_it_goes_on(database: Migrated) -> None:
    """As when a crowd of runs begins: each reads first, and none of them fails for that."""
    async with Database.connect(database("agent"), connections_max=1) as connected:
        seals = Seals([KEY], purpose=SEAL_PURPOSE)
        saver = Checkpoints(connected, seals, patience_s=9.0).of(ANN.organization_id, None)
        config = await put(saver, messages=MESSAGES)
        async with connected.connection():
            reading = asyncio.create_task(got(saver, config))
            await asyncio.wait({reading}, timeout=WAIT_S_MAX + 0.3)
        assert (await reading).checkpoint["channel_values"]["messages"] == MESSAGES
