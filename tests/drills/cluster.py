"""A PostgreSQL that loses no commit, and can be killed, destroyed and started again on what is left of it."""

import asyncio
import contextlib
import hashlib
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from deploy.local import postgres
from deploy.local.ports import free_ports
from deploy.migrations.config import SERVICES, Config
from deploy.migrations.roles import service_role

DATABASE = "ollamesh"
START_WITHIN_S = 120.0
# Of each row, a number; of a table, how many there are and their sum: the order of rows is nobody's promise.
_TABLES = """
    SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
    WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1
"""
_HASH = """
    SELECT count(*)::text || ' ' || coalesce(sum(('x' || left(md5(row::text), 16))::bit(64)::bigint::numeric), 0)::text
    FROM {table} AS row
"""


@dataclass(slots=True)
class Cluster:
    """Its folder must be reachable for the uid that servers have: not pytest's."""

    folder: Path
    password: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    port: int = field(default_factory=lambda: free_ports(1)[0])
    passwords: Mapping[str, str] = field(
        default_factory=lambda: {service: secrets.token_urlsafe(16) for service in SERVICES}
    )
    _process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def admin_dsn(self) -> str:
        return postgres.dsn(port=self.port, database=DATABASE, role=postgres.ADMIN, password=self.password)

    @property
    def migrations(self) -> Config:
        return Config(admin_dsn=self.admin_dsn, passwords=self.passwords)

    def service_dsn(self, service: str) -> str:
        return postgres.dsn(
            port=self.port, database=DATABASE, role=service_role(service), password=self.passwords[service]
        )

    async def start(self, *, database: str = DATABASE) -> None:
        """Return when it answers. Not `prepare`d here: what was restored is started as it is."""
        self.spawn()
        await self.until_ready(database=database)

    async def until_ready(self, *, database: str = DATABASE) -> None:
        assert self._process is not None
        async with asyncio.timeout(START_WITHIN_S):
            while True:
                try:
                    return await (await asyncpg.connect(self.admin_dsn, database=database)).close()
                except (OSError, asyncpg.PostgresError):
                    if self._process.poll() is not None:
                        raise
                    await asyncio.sleep(0.02)

    def spawn(self) -> None:
        """It ends with the thread that calls this."""
        with (self.folder / "postgres.log").open("ab") as log:
            command = postgres.guard(self.data).command(postgres.command(port=self.port))
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self) -> None:
        """As a machine that loses its power: nothing is written any more."""
        assert self._process is not None
        for child in _children(self._process.pid):
            _kill(child)
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()

    def destroy(self) -> None:
        shutil.rmtree(self.data)

    async def hashes(self) -> dict[str, str]:
        """Of every table."""
        connection = await asyncpg.connect(self.admin_dsn)
        try:
            tables = [row[0] for row in await connection.fetch(_TABLES)]
            return {table: _short(await connection.fetchval(_HASH.format(table=table))) for table in tables}
        finally:
            await connection.close()


def _short(text: str) -> str:
    return f"{text.partition(' ')[0]} rows, {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(one) for one in text.split()]


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
