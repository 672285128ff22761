"""What is measured of PostgreSQL, against the real one; and that nothing of a statement but its name is told."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from deploy.local.ports import free_ports
from services.common.errors import StoreBusy, StoreUnavailable
from services.common.postgres import Database
from services.common.postgres_metrics import PostgresMetrics
from services.common.statements import KNOWN_MAX, summary
from tests.stack import Database as Migrated

PLANTED = "planted-value-5c1d"
FILES = "SELECT filename FROM files WHERE user_id = $1"


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def pool(database: Migrated, registry: CollectorRegistry) -> AsyncIterator[Database]:
    metrics = PostgresMetrics(registry).pool("main")
    async with Database.connect(database("inference"), connections_max=2, metrics=metrics) as connected:
        yield connected


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"ollamesh_postgres_{name}", labels)


async def test_a_pool_is_not_told_to_be_down_before_it_was_asked(
    pool: Database, registry: CollectorRegistry
) -> None:
    assert value(registry, "up", pool="main") is None
    assert await pool.answers()
    assert value(registry, "up", pool="main") == 1


async def test_statements_are_counted_by_name(pool: Database, registry: CollectorRegistry) -> None:
    async with pool.connection(organization_id=PLANTED) as connection:
        await connection.fetch(FILES, PLANTED)
    await asyncio.sleep(0)  # They are told in the loop's next round.
    for name in ("BEGIN", "SELECT files", "COMMIT"):
        assert value(registry, "statement_seconds_count", statement=name) == 1, name
    assert value(registry, "pool_acquire_seconds_count", pool="main") == 1
    assert value(registry, "up", pool="main") == 1
    assert PLANTED not in generate_latest(registry).decode()


async def test_slow_and_failed_ones_are_told(
    pool: Database,
    registry: CollectorRegistry,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("services.common.postgres_metrics.SLOW_S", 0.0)
    async with pool.connection() as connection:
        with pytest.raises(Exception, match="division by zero"):
            await connection.fetch(f"SELECT 1 / 0 FROM files WHERE filename <> '{PLANTED}' OR true")
        with pytest.raises(Exception, match="division by zero"):
            await connection.fetchval("SELECT 1 / 0")
    await asyncio.sleep(0)
    assert value(registry, "slow_statements_total", statement="SELECT") == 1
    assert value(registry, "statement_errors_total", statement="SELECT") == 1
    logged = "".join(capfd.readouterr())
    assert "slow_statement" in logged
    assert PLANTED not in logged


async def test_connections_and_those_who_wait_are_counted(
    pool: Database, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.common.postgres.WAIT_S_MAX", 0.05)
    assert value(registry, "pool_connections_max", pool="main") == 2
    async with pool.connection(), pool.connection():
        assert value(registry, "pool_connections", pool="main", state="used") == 2
        late = asyncio.create_task(_used(pool))
        while value(registry, "pool_waiting", pool="main") == 0:
            await asyncio.sleep(0)
        with pytest.raises(StoreBusy):
            await late
    assert value(registry, "pool_waiting", pool="main") == 0
    assert value(registry, "pool_connections", pool="main", state="idle") == 2
    assert value(registry, "refused_total", pool="main", cause="busy") == 1


async def _used(pool: Database) -> None:
    async with pool.connection():
        raise AssertionError


async def test_a_store_that_is_away_is_told(registry: CollectorRegistry) -> None:
    metrics = PostgresMetrics(registry).pool("main")
    (port,) = free_ports(1)
    dsn = f"postgresql://u:{PLANTED}@127.0.0.1:{port}/none"
    async with Database.connect(dsn, connections_max=1, metrics=metrics) as pool:
        with pytest.raises(StoreUnavailable):
            await _used(pool)
    assert value(registry, "up", pool="main") == 0
    assert value(registry, "refused_total", pool="main", cause="away") == 1
    assert PLANTED not in generate_latest(registry).decode()


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("SELECT 1", "SELECT"),
        ("  SELECT a, b FROM runs JOIN threads USING (thread_id)", "SELECT runs"),
        ("SELECT * FROM (SELECT a FROM audit_events) AS scanned", "SELECT audit_events"),
        ("SELECT a FROM runs FOR UPDATE SKIP LOCKED", "SELECT runs"),
        ("INSERT INTO runs (a) SELECT 1 FROM threads ON CONFLICT (a) DO UPDATE SET a = 2", "INSERT runs"),
        ("UPDATE runs SET a = 1 FROM threads", "UPDATE runs"),
        ("DELETE FROM runs USING threads", "DELETE runs"),
        ("WITH next AS (SELECT a FROM runs) UPDATE runs SET a = 1 FROM next", "UPDATE runs"),
        ("WITH next AS (SELECT a FROM runs) SELECT * FROM next", "SELECT runs"),
        ("-- INSERT INTO secrets\nSELECT a FROM runs /* DELETE FROM users */", "SELECT runs"),
        (f"BEGIN; SELECT set_config('x', '{PLANTED}', true)", "BEGIN"),
        ("COMMIT", "COMMIT"),
        ("SET LOCAL x = '5s'", "SET"),
        ("LISTEN bells", "LISTEN"),
        ("", "other"),
    ],
)
def test_a_statement_is_called_by_what_it_does(statement: str, name: str) -> None:
    assert summary(statement) == name


def test_texts_that_are_built_do_not_pile_up() -> None:
    from services.common import statements

    for number in range(2 * KNOWN_MAX):
        assert summary(f"SELECT {number} FROM runs") == "SELECT runs"
    assert len(statements._known) <= KNOWN_MAX
