"""What every service may rely on in its database, what none may do there, and what the runner promises."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeAlias

import asyncpg
import pytest

from deploy.local.postgres import dsn as dsn_of
from deploy.migrations import runner
from deploy.migrations.config import SERVICES, Config, MigrationError
from deploy.migrations.runner import LOCK_KEY, migrate, newest
from tests.stack import Database, PostgresServer, run

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

each_service = pytest.mark.parametrize("service", SERVICES)


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def tables(module_database: Database) -> Database:
    """A table in each schema, made as a migration would make it."""

    async def make() -> None:
        async with connected(module_database.admin_dsn) as admin:
            await admin.execute("SET ROLE ollamesh_owner")
            for service in SERVICES:
                await admin.execute(f"CREATE TABLE {service}.probe (id bigserial PRIMARY KEY, word text)")

    run(make())
    return module_database


@each_service
async def test_a_service_reads_and_writes_the_rows_of_its_own_schema(tables: Database, service: str) -> None:
    async with connected(tables(service)) as own:
        await own.execute("INSERT INTO probe (word) VALUES ('a'), ('b')")  # Found by search_path.
        await own.execute("DELETE FROM probe WHERE word = 'a'")
        assert await own.fetchval(f"UPDATE {service}.probe SET word = 'c' RETURNING word") == "c"


@each_service
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine (id int)",
        "CREATE TEMPORARY TABLE mine (id int)",
        "CREATE SCHEMA mine",
        "CREATE TABLE public.mine (id int)",
        "DROP TABLE probe",
        "ALTER TABLE probe ADD COLUMN mine int",
        "TRUNCATE probe",
        "SET ROLE ollamesh_owner",
        "SELECT * FROM pg_authid",
    ],
)
async def test_a_service_may_not(tables: Database, service: str, statement: str) -> None:
    async with connected(tables(service)) as own:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await own.execute(statement)


@each_service
async def test_a_service_sees_nothing_of_another(tables: Database, service: str) -> None:
    async with connected(tables(service)) as own:
        for other in set(SERVICES) - {service}:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await own.execute(f"SELECT * FROM {other}.probe")


async def test_a_service_sees_its_version_and_cannot_change_it(database: Database) -> None:
    async with connected(database("inference")) as own:
        assert await own.fetchval("SELECT version_num FROM alembic_version") == newest("inference")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await own.execute("UPDATE alembic_version SET version_num = '0000'")


async def test_nothing_that_migrations_make_belongs_to_a_superuser(database: Database) -> None:
    async with connected(database.admin_dsn) as admin:
        owners = await admin.fetch(
            "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = ANY($1::text[])", list(SERVICES)
        )
    assert [owner for (owner,) in owners] == ["ollamesh_owner"]


async def test_no_password_is_kept_in_clear(database: Database, postgres_server: PostgresServer) -> None:
    async with connected(database.admin_dsn) as admin:
        kept = " ".join(row["query"] for row in await admin.fetch("SELECT query FROM pg_stat_statements"))
    assert "SCRAM-SHA-256" in kept, "the statement is recorded, or the test proves nothing"
    assert not [password for password in postgres_server.service_passwords.values() if password in kept]


async def test_who_watches_sees_statistics_and_no_row(
    unmigrated: Config, postgres_server: PostgresServer
) -> None:
    await migrate(unmigrated, say=lambda _: None)
    async with connected(unmigrated.admin_dsn) as admin:
        assert await admin.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = 'ollamesh_monitor'") == 0
    password = "a-password-of-the-exporter"
    await migrate(replace(unmigrated, monitor_password=password), say=lambda _: None)
    database = unmigrated.admin_dsn.rpartition("/")[2]
    dsn = dsn_of(port=postgres_server.port, database=database, role="ollamesh_monitor", password=password)
    async with connected(dsn) as own:
        assert await own.fetchval("SELECT count(*) FROM pg_stat_database") > 0
        assert await own.fetchval("SHOW shared_preload_libraries"), "only pg_monitor may ask"
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await own.execute("SELECT * FROM auth.users")


@pytest.fixture
def unmigrated(postgres_server: PostgresServer) -> Iterator[Config]:
    """A database that does not even exist; dropped at the end."""
    name = f"unmigrated_{os.urandom(6).hex()}"

    async def drop() -> None:
        async with connected(postgres_server.admin_dsn()) as admin:
            await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    yield postgres_server.migrations(name)
    run(drop())


async def test_two_runners_at_once_do_the_work_once(unmigrated: Config) -> None:
    said: list[str] = []
    await asyncio.gather(migrate(unmigrated, say=said.append), migrate(unmigrated, say=said.append))
    assert said == [f"{s}: empty -> {newest(s)}" for s in SERVICES if newest(s)]
    await migrate(unmigrated, say=said.append)
    assert len(said) == len(set(said)), "a second run finds nothing to do"


USED = """
    INSERT INTO inference.usage_entries
    SELECT gen_random_uuid(), now() - n * interval '1 hour', 's', 'o', 'p', 'u', 'm', 'chat', 1, 1, 1, 1, false, false, false
    FROM generate_series(1, 100) n
"""


@pytest.mark.parametrize("version", ["0001", "0002"])
async def test_an_upgrade_finds_rows_and_leaves_them(
    unmigrated: Config, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """From every version of the inference service's schema, while somebody of the old version is connected."""
    head = newest("inference")
    with monkeypatch.context() as patched:
        real = runner.newest
        patched.setattr(runner, "newest", lambda name: version if name == "inference" else real(name))
        await migrate(unmigrated, say=lambda _: None)
    async with connected(unmigrated.admin_dsn) as admin, connected(unmigrated.admin_dsn) as old:
        await old.execute("SET search_path = inference, agent")
        await admin.execute("INSERT INTO auth.organizations VALUES ('o', 'one'), ('p', 'two')")
        if version >= "0002":
            await admin.execute(USED)
        said: list[str] = []
        await migrate(unmigrated, say=said.append)
        assert said == ([] if version == head else [f"inference: {version} -> {head}"])
        assert await admin.fetchval("SELECT count(*) FROM auth.organizations") == 2
        used = await admin.fetchval("SELECT count(*) FROM inference.usage_entries")
        assert used == (100 if version >= "0002" else 0)
        assert await old.fetchval("SELECT count(*) FROM threads") == 0, "what it knew is still there"


async def test_a_runner_waits_for_another_only_so_long(
    postgres_server: PostgresServer, database: Database
) -> None:
    impatient = replace(postgres_server.migrations(database.name), lock_wait_s=1)
    async with connected(database.admin_dsn) as other:
        await other.execute(f"SELECT pg_advisory_lock({LOCK_KEY})")
        with pytest.raises(MigrationError, match="another migration has been running for 1 s"):
            await migrate(impatient, say=lambda _: None)


def test_what_is_missing_is_named_at_once_and_without_a_value() -> None:
    env = {
        "OLLAMESH_AUTH_DB_PASSWORD": "hunter2hunter2hunter2",
        "OLLAMESH_AGENT_DB_PASSWORD_FILE": os.devnull,
    }
    done = subprocess.run(
        [sys.executable, "-m", "deploy.migrations"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    missing = ("OLLAMESH_ADMIN_DATABASE_URL", "OLLAMESH_AGENT_DB_PASSWORD", "OLLAMESH_INFERENCE_DB_PASSWORD")
    sentence = f"ollamesh: {'; '.join(f'{name} is not set' for name in missing)}\n"
    assert (done.returncode, done.stderr) == (1, sentence)


async def test_an_absent_server_is_one_sentence(unused_tcp_port: int) -> None:
    dsn = f"postgresql://ollamesh:hunter2@127.0.0.1:{unused_tcp_port}/ollamesh"
    config = Config(admin_dsn=dsn, passwords=dict.fromkeys(SERVICES, "x"))
    with pytest.raises(MigrationError, match="no PostgreSQL answers") as failure:
        await migrate(config, say=lambda _: None)
    assert "hunter2" not in str(failure.value) + repr(config)
