"""What the pool of connections promises, whoever uses it, against the real PostgreSQL."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from deploy.local.ports import free_ports
from services.common.errors import MeshError, StoreBusy, StoreUnavailable
from services.common.postgres import Database
from tests.fakes.severable import Severable
from tests.service.auth_app import port_of
from tests.stack import Database as Migrated

CONNECTIONS_MAX = 5
REFUSED_WITHIN_S = 1.0
MADE = """
    INSERT INTO files (file_id, organization_id, user_id, filename, size_bytes, expire_time)
    VALUES (gen_random_uuid(), 'o', 'u', '', 1, now())
"""
TIMEOUT_S = 30.0  # Nothing here may take longer, whatever the machine does: else it hangs.


@pytest.fixture
async def pool(database: Migrated) -> AsyncIterator[Database]:
    async with Database.connect(database("inference"), connections_max=CONNECTIONS_MAX) as connected:
        yield connected


async def held(pool: Database, until: asyncio.Event) -> tuple[str, float]:
    """Hold a connection until then; how it went, and after how long it was refused."""
    started_s = time.monotonic()
    try:
        async with pool.connection() as connection:
            await until.wait()
            await connection.execute("SELECT 1")
    except MeshError as error:
        return error.reason, time.monotonic() - started_s
    return "done", 0.0


@pytest.mark.timed
async def test_fifty_callers_for_five_connections(pool: Database) -> None:
    """R12: those that do not fit are refused within a second, the others get what they came for."""
    until = asyncio.Event()
    async with asyncio.timeout(TIMEOUT_S):
        callers = [asyncio.create_task(held(pool, until)) for _ in range(50)]
        waiting = callers
        while len(waiting) > CONNECTIONS_MAX:
            _, left = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            waiting = list(left)
        until.set()
        ended = await asyncio.gather(*callers)
        assert Counter(how for how, _ in ended) == {"done": CONNECTIONS_MAX, "STORE_BUSY": 45}
        assert max(after_s for _, after_s in ended) <= REFUSED_WITHIN_S
        assert await pool.answers(), "it is as before"


async def test_who_waits_gets_what_becomes_free(pool: Database) -> None:
    """Many short uses by more callers than connections: nobody is refused, and nobody waits for ever."""

    async def used() -> None:
        async with pool.connection() as connection:
            await connection.execute("SELECT 1")

    async with asyncio.timeout(TIMEOUT_S):
        await asyncio.gather(*(used() for _ in range(50)))


async def test_a_refusal_says_when_to_come_again(pool: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.common.postgres.WAIT_S_MAX", 0.01)
    until = asyncio.Event()
    callers = [asyncio.create_task(held(pool, until)) for _ in range(CONNECTIONS_MAX)]
    while pool._in_use_count < CONNECTIONS_MAX:
        await asyncio.sleep(0)
    with pytest.raises(StoreBusy) as refused:
        async with pool.connection():
            raise AssertionError
    assert refused.value.retry_after_s
    assert not await pool.answers()
    until.set()
    await asyncio.gather(*callers)


async def test_who_leaves_while_it_waits_leaves_nothing_behind(pool: Database) -> None:
    until = asyncio.Event()
    callers = [asyncio.create_task(held(pool, until)) for _ in range(CONNECTIONS_MAX)]
    while pool._in_use_count < CONNECTIONS_MAX:
        await asyncio.sleep(0)
    leavers = [asyncio.create_task(held(pool, until)) for _ in range(20)]
    await asyncio.sleep(0)
    for task in (*leavers, *callers):
        task.cancel()
    await asyncio.gather(*leavers, *callers, return_exceptions=True)
    until.set()
    ended = await asyncio.gather(*(held(pool, until) for _ in range(CONNECTIONS_MAX)))
    assert {how for how, _ in ended} == {"done"}


@asynccontextmanager
async def silent() -> AsyncIterator[int]:
    """The port of a server that takes connections and never says anything."""
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _reader, writer: writers.append(writer), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for writer in writers:
        writer.transport.abort()


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_store_that_is_away_is_not_called_busy(database: Migrated, *, hangs: bool) -> None:
    """Fifty callers at once, of which most never get a place: nobody of them is told to slow down."""
    dsn = database("inference")
    async with asyncio.timeout(TIMEOUT_S), silent() as hanging:
        port = hanging if hangs else free_ports(1)[0]
        away = dsn.replace(f":{port_of(dsn)}/", f":{port}/")
        async with Database.connect(away, connections_max=CONNECTIONS_MAX, connect_s_max=1.5) as pool:
            until = asyncio.Event()
            ended = await asyncio.gather(*(held(pool, until) for _ in range(50)))
    assert {how for how, _ in ended} == {"STORE_UNAVAILABLE"}


async def test_it_comes_back_with_its_store(database: Migrated) -> None:
    dsn = database("inference")
    async with (
        Severable.to(port_of(dsn)) as cable,
        Database.connect(
            dsn.replace(f":{port_of(dsn)}/", f":{cable.port}/"), connections_max=CONNECTIONS_MAX
        ) as pool,
    ):
        assert await pool.answers()
        await cable.cut()
        for _ in range(2 * CONNECTIONS_MAX):
            with pytest.raises(StoreUnavailable):
                async with pool.connection() as connection:
                    await connection.execute("SELECT 1")
        await cable.mend()
        async with asyncio.timeout(TIMEOUT_S):
            while not await pool.answers():
                await asyncio.sleep(0.01)


async def test_a_block_that_fails_leaves_nothing(pool: Database, database: Migrated) -> None:
    """What is not ours to explain passes through, and a transaction takes back what it did."""
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute("CREATE TABLE inference.notes (note text)")
    await admin.execute("GRANT SELECT, INSERT ON inference.notes TO ollamesh_inference")

    async def fails() -> None:
        async with pool.transaction() as connection:
            await connection.execute("INSERT INTO notes VALUES ('a')")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fails()
    with pytest.raises(asyncpg.PostgresSyntaxError):
        async with pool.connection() as connection:
            await connection.execute("SELEKT")
    assert await admin.fetchval("SELECT count(*) FROM inference.notes") == 0
    await admin.close()


async def test_a_database_without_its_tables_is_away(pool: Database) -> None:
    """A service may start before its migration has run."""
    with pytest.raises(StoreUnavailable):
        async with pool.connection() as connection:
            await connection.execute("SELECT * FROM nothing_of_the_kind")


async def test_a_block_that_is_left_leaves_nothing_and_its_connection_clean(pool: Database) -> None:
    """Whatever it was doing: a statement that is cancelled, or one that waits for nothing."""
    for doing in ("SELECT pg_sleep(60)", None):
        begun = asyncio.Event()

        async def work(doing: str | None = doing, begun: asyncio.Event = begun) -> None:
            async with pool.transaction(system=True) as connection:
                await connection.execute(MADE)
                begun.set()
                await (connection.execute(doing) if doing else asyncio.Event().wait())

        task = asyncio.create_task(work())
        async with asyncio.timeout(TIMEOUT_S):
            await begun.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
    async with pool.connection() as connection:
        assert not connection.is_in_transaction()
        assert not await connection.fetchval("SELECT current_setting('ollamesh.system', true)")
    async with pool.connection(system=True) as connection:
        assert await connection.fetchval("SELECT count(*) FROM files") == 0


async def test_a_block_whose_connection_breaks_fails_as_it_failed(pool: Database) -> None:
    async def breaks(error: Exception | None) -> None:
        async with pool.transaction() as connection:
            connection.terminate()
            if error:
                raise error

    with pytest.raises(KeyError):
        await breaks(KeyError())
    with pytest.raises(StoreUnavailable):
        await breaks(None)
    assert await pool.answers()


async def test_a_block_that_is_left_twice_leaves_its_connection_clean(pool: Database) -> None:
    """The second time while it takes back what it did. Nobody resets connections between their users."""
    for pause_s in (0.0, 0.0005, 0.001, 0.002):
        tasks = [asyncio.create_task(_left(pool)) for _ in range(CONNECTIONS_MAX)]
        async with asyncio.timeout(TIMEOUT_S):
            while pool._in_use_count < CONNECTIONS_MAX:
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.sleep(pause_s)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        seen = await asyncio.gather(*(_whose(pool) for _ in range(CONNECTIONS_MAX)))
        assert set(seen) == {(False, "")}


async def _left(pool: Database) -> None:
    async with pool.transaction(system=True) as connection:
        await connection.execute(MADE)
        await connection.execute("SELECT pg_sleep(60)")


async def _whose(pool: Database) -> tuple[bool, str]:
    async with pool.connection() as connection:
        seen = await connection.fetchval("SELECT current_setting('ollamesh.system', true)")
        return connection.is_in_transaction(), seen or ""
