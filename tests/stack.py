"""Fixtures that give tests real parts: PostgreSQL, Redis, and the whole stack.

Each is started once per test process, and only if a test asks for it; under xdist every worker has its
own. Databases are copies of one that the real migrations made, so a test's rows are its own.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import asyncpg
import pytest
import redis as redis_client
from redis.backoff import NoBackoff
from redis.retry import Retry

from deploy.local import postgres, redis, stack
from deploy.local.errors import StackError
from deploy.local.ports import free_ports
from deploy.local.settings import DEFAULT_PORTS, Settings, port_variable
from deploy.migrations.config import SERVICES, Config
from deploy.migrations.roles import connections, service_role
from deploy.migrations.runner import migrate
from services.common.launch import Guard

START_WITHIN_S = 30.0
TEMPLATE = "migrated"
AT_ONCE = Retry(NoBackoff(), 0)  # By default this client tries for seconds before it fails.

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A migrated database of a test's own. `database("auth")` is the DSN of that service's role."""

    name: str
    admin_dsn: str
    dsns: Mapping[str, str]

    def __call__(self, service: str) -> str:
        return self.dsns[service]

    def system(self, service: str) -> str:
        """Likewise, for tests that look for themselves: it sees the rows of every organisation."""
        return f"{self.dsns[service]}?ollamesh.system=on"


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresServer:
    port: int
    password: str
    service_passwords: Mapping[str, str] = field(
        default_factory=lambda: {service: secrets.token_urlsafe(16) for service in SERVICES}
    )

    def admin_dsn(self, database: str = "postgres") -> str:
        return postgres.dsn(port=self.port, database=database, role=postgres.ADMIN, password=self.password)

    def service_dsn(self, service: str, database: str) -> str:
        password = self.service_passwords[service]
        return postgres.dsn(port=self.port, database=database, role=service_role(service), password=password)

    def migrations(self, database: str) -> Config:
        return Config(admin_dsn=self.admin_dsn(database), passwords=self.service_passwords)

    @contextlib.contextmanager
    def fresh(self) -> Iterator[Database]:
        """A copy of the migrated database, dropped at the end whoever is still connected."""
        name = f"test_{secrets.token_hex(6)}"
        run(self._execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}"))
        run(self._execute(connections(SERVICES), database=name))
        dsns = {service: self.service_dsn(service, name) for service in SERVICES}
        yield Database(name=name, admin_dsn=self.admin_dsn(name), dsns=dsns)
        run(self._execute(f"DROP DATABASE {name} WITH (FORCE)"))

    async def _execute(self, statement: str, *, database: str = "postgres") -> None:
        connection = await asyncpg.connect(self.admin_dsn(database))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def ready(self) -> None:
        run(self._execute("SELECT 1"))


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisServer:
    port: int
    password: str

    @property
    def url(self) -> str:
        return redis.url(port=self.port, password=self.password)

    def flush(self) -> None:
        with redis_client.Redis.from_url(self.url, retry=AT_ONCE) as client:
            client.flushall()


@contextlib.contextmanager
def running_postgres(*, durable: bool = False) -> Iterator[PostgresServer]:
    """A PostgreSQL without fsync unless it is to be `durable`, holding the migrated template."""
    with _folder() as folder:
        server = PostgresServer(port=free_ports(1)[0], password=secrets.token_urlsafe(16))
        data = folder / "data"
        postgres.prepare(data, password=server.password, durable=durable)
        argv = postgres.command(port=server.port, durable=durable)
        with _running(postgres.guard(data), argv, folder / "log", until=server.ready):
            run(migrate(server.migrations(TEMPLATE), say=lambda _: None))
            yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL for all tests of this process. Most tests want `database` instead."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[Database]:
    """A migrated database for this test alone."""
    with postgres_server.fresh() as fresh:
        yield fresh


@pytest.fixture(scope="module")
def module_database(postgres_server: PostgresServer) -> Iterator[Database]:
    """A migrated database that the tests of a module share."""
    with postgres_server.fresh() as fresh:
        yield fresh


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRedis(RedisServer):
    """One that a test may do anything to."""

    pid: int

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP has it hang, SIGCONT has it go on."""
        os.kill(self.pid, number)

    def configure(self, name: str, value: str) -> None:
        with redis_client.Redis.from_url(self.url, retry=AT_ONCE) as client:
            client.config_set(name, value)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis that keeps nothing. Most tests want `redis_url` instead."""
    with own_redis() as server:
        yield server


@contextlib.contextmanager
def own_redis(like: RedisServer | None = None) -> Iterator[OwnRedis]:
    """A Redis of a test's own, which leaving kills; `like` another one: in its place, and empty."""
    with _folder() as folder:
        server = like or RedisServer(port=free_ports(1)[0], password=secrets.token_urlsafe(16))
        configuration = folder / "redis.conf"
        configuration.write_text(redis.configuration(port=server.port, password=server.password))
        with _running(redis.guard(configuration), redis.command(), folder / "log", until=server.flush) as pid:
            yield OwnRedis(port=server.port, password=server.password, pid=pid)


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of a Redis that is empty when the test starts."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture(scope="session")
def mesh() -> Iterator[Settings]:
    """A whole stack that is up, for tests that leave it so."""
    with running_stack(profiles="python,python-data") as settings:
        yield settings


@contextlib.contextmanager
def running_stack(*, profiles: str = "python") -> Iterator[Settings]:
    """A stack of one's own: free ports, the embedded models, the cache of models that all stacks share.

    `profiles` of the sandbox, of which all but the first take seconds to start.
    """
    with _folder() as folder:
        own = {"OLLAMESH_HOME": str(folder / "home"), "OLLAMESH_EMBEDDED_MODELS": "true"}
        own["OLLAMESH_SANDBOX_PROFILES"] = profiles
        ports = {port_variable(name): "0" for name in DEFAULT_PORTS}
        settings = Settings.from_env({**os.environ, **own, **ports})
        try:
            stack.up(settings, print)
            yield settings
        except StackError:
            for log in (settings.home / "logs").glob("*.log"):  # They go with the folder.
                sys.stdout.write(f"--- {log.name}\n{log.read_text()[-2000:]}\n")
            raise
        finally:
            stack.down(settings, print)


def run(work: Coroutine[object, object, T]) -> T:
    """Run to the end in another thread, since the caller may be inside an event loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    # Not pytest's tmp_path: its parents are closed to the uid that servers have when root runs the tests.
    folder = Path(tempfile.mkdtemp(prefix="ollamesh-test-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def _running(guard: Guard, argv: tuple[str, ...], log: Path, *, until: Callable[[], None]) -> Iterator[int]:
    """Runs a server from the time when `until` does not raise; gives its process."""
    with (
        log.open("wb") as output,
        subprocess.Popen(guard.command(argv), stdout=output, stderr=output) as process,
    ):
        try:
            _wait(until, process, log)
            yield process.pid
        finally:
            process.send_signal(guard.orphan_signal)


def _wait(until: Callable[[], None], process: subprocess.Popen[bytes], log: Path) -> None:
    end_s = time.monotonic() + START_WITHIN_S
    while True:
        try:
            return until()
        except (OSError, asyncpg.PostgresError, redis_client.RedisError) as error:
            if process.poll() is not None or time.monotonic() > end_s:
                raise AssertionError(f"the server did not start: {log.read_text()[-2000:]}") from error
            time.sleep(0.02)
