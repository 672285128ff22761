"""Brings a database to the newest version: roles, schemas, then each service's version files.

Alembic orders the files and writes the SQL down; asyncpg, the services' own driver, carries it out.
Invariants: one runner at a time per database (an advisory lock); each version file is one transaction
and leaves its version with it; tables are owned by `ollamesh_owner`, never by the superuser.
"""

import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

import asyncpg
from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.script import ScriptDirectory

from deploy.migrations import roles
from deploy.migrations.config import SERVICES, Config, MigrationError

HERE = Path(__file__).parent
LOCK_KEY = 0x6F6C6C616D657368  # "ollamesh"; any constant that nobody else locks.
CONNECT_TIMEOUT_S = 10.0

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Say = Callable[[str], None]


class _Statements(io.StringIO):
    """Alembic writes one statement at a time; kept apart because some must travel alone."""

    def __init__(self) -> None:
        super().__init__()
        self.each: list[str] = []

    def write(self, text: str) -> int:
        if not text.startswith("--"):  # asyncpg stumbles over a comment alone.
            self.each.append(text)
        return len(text)


async def migrate(config: Config, *, say: Say) -> None:
    """Idempotent, and safe to run twice at once. Raises MigrationError with the sentence to show."""
    try:
        await _create_database(config.admin_dsn)
        async with _locked(config) as connection:
            await connection.execute(roles.database())
            for service in SERVICES:
                await connection.execute(roles.service(service, password=config.passwords[service]))
                await _upgrade(connection, service, say)
                await connection.execute(roles.protect_version(service))
            await connection.execute(roles.connections(SERVICES))
            if config.monitor_password is not None:
                await connection.execute(roles.monitor(password=config.monitor_password))
    except asyncpg.LockNotAvailableError as error:
        raise MigrationError(f"another migration has been running for {config.lock_wait_s} s") from error
    except asyncpg.PostgresError as error:
        raise MigrationError(f"PostgreSQL refused: {error}") from error
    except (OSError, TimeoutError, asyncpg.InterfaceError) as error:
        raise MigrationError("no PostgreSQL answers at OLLAMESH_ADMIN_DATABASE_URL") from error


def newest(service: str) -> str | None:
    """The version that `migrate` brings a service's schema to."""
    return ScriptDirectory.from_config(_alembic(service, io.StringIO())).get_current_head()


def statements(service: str, current: str, target: str) -> list[str]:
    """The SQL that leads from one version to another, `base` being none."""
    written = _Statements()
    command.upgrade(_alembic(service, written), f"{current}:{target}", sql=True)
    return written.each


async def _create_database(dsn: str) -> None:
    try:
        await (await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_S)).close()
    except asyncpg.InvalidCatalogNameError:
        server = await asyncpg.connect(dsn, database="postgres", timeout=CONNECT_TIMEOUT_S)
        try:
            name = unquote(urlsplit(dsn).path.removeprefix("/"))
            statement: str = await server.fetchval("SELECT format('CREATE DATABASE %I', $1::text)", name)
            await server.execute(statement)
        except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
            pass  # Another runner was quicker.
        finally:
            await server.close()


@asynccontextmanager
async def _locked(config: Config) -> AsyncIterator[Connection]:
    connection: Connection = await asyncpg.connect(config.admin_dsn, timeout=CONNECT_TIMEOUT_S)
    try:
        await connection.execute(f"SET lock_timeout = '{config.lock_wait_s}s'")
        await connection.execute(f"SELECT pg_advisory_lock({LOCK_KEY})")
        yield connection
    finally:
        await connection.close()  # Gives the lock back, whatever state the session is in.


async def _upgrade(connection: Connection, service: str, say: Say) -> None:
    current, target = await _version(connection, service), newest(service)
    if current == target:
        return
    await connection.execute(f"SET ROLE {roles.OWNER}; SET search_path = {service}")
    for statement in statements(service, current or "base", target or "base"):
        await connection.execute(statement)
    await connection.execute("RESET ROLE; RESET search_path")
    say(f"{service}: {current or 'empty'} -> {target}")


async def _version(connection: Connection, service: str) -> str | None:
    table = f"{service}.alembic_version"
    if await connection.fetchval("SELECT to_regclass($1)", table) is None:
        return None
    version: str | None = await connection.fetchval(f"SELECT version_num FROM {table}")  # noqa: S608 - Ours.
    return version


def _alembic(service: str, output: io.StringIO) -> AlembicConfig:
    config = AlembicConfig(output_buffer=output)
    escaped = str(HERE).replace("%", "%%")  # The options are a ConfigParser's.
    config.set_main_option("path_separator", "newline")
    config.set_main_option("script_location", escaped)
    config.set_main_option("version_locations", f"{escaped}/{service}/versions")
    config.set_main_option("service", service)
    return config
