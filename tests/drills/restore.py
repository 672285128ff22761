"""`make drill-restore SIZE_MB=1000`: load, backup, more load, destroy, restore, compare; prints RPO and RTO.

The auth service runs on a real PostgreSQL whose log is followed, and appends to its audit chain all the while; beside
it somebody commits a row a hundredth of a second, and remembers when the database said that it was there. Then the
server is killed and its data and secrets are removed. Restored twice: as late as there is, for RPO (what was committed
before the kill and is gone), RTO (from the loss until auth answers with its chain verified); and as of a moment before,
for which the hash of every table is known.
"""

import asyncio
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
from cryptography.fernet import Fernet
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.audit_pb2 import AuditEvent

from deploy.local import postgres
from deploy.migrations.runner import migrate
from services.auth.config import Config
from services.common.grpc.client import bearer
from services.common.launch import Guard
from tests.drills.cluster import Cluster
from tests.drills.report import Finding, report
from tests.service import auth_app

SIZE_MB, LOAD_S, SEAL_EVERY_S = 20, 5.0, 10.0
PART_BYTES = 256 * 1024
RPO_S_MAX, RTO_S_MAX = 60.0, 600.0
WAIT_S = 1800.0
TIMEOUT_S = 60.0


@dataclass(slots=True)
class Acknowledged:
    """What the database said that it had: the number of a row, and when."""

    rows: list[tuple[int, float]] = field(default_factory=list)
    event_count: int = 0


@dataclass(slots=True)
class Drill:
    cluster: Cluster
    home: Path
    size_mb: int = SIZE_MB
    load_s: float = LOAD_S
    seal_every_s: float = SEAL_EVERY_S
    acknowledged: Acknowledged = field(default_factory=Acknowledged)
    encryption_key: str = field(default_factory=lambda: Fernet.generate_key().decode())

    @property
    def secrets(self) -> Path:
        return self.home / "secrets"

    @property
    def variables(self) -> dict[str, str]:
        return {
            **os.environ,
            "OLLAMESH_BACKUP_FOLDER": str(self.home / "backups"),
            "OLLAMESH_BACKUP_PASSPHRASE_FILE": str(self.home / "passphrase"),
            "OLLAMESH_BACKUP_SECRETS": str(self.secrets),
            "OLLAMESH_BACKUP_SPOOL": str(self.home / "spool"),
            "OLLAMESH_BACKUP_SEAL_EVERY_S": str(self.seal_every_s),
            "OLLAMESH_BACKUP_METRICS_PORT": "0",
            "OLLAMESH_ADMIN_DATABASE_URL": self.cluster.admin_dsn,
        }

    def command(self, *arguments: str) -> tuple[str, ...]:
        return Guard().command((sys.executable, "-m", "deploy.backup", *arguments))

    async def backup(self, *arguments: str) -> str:
        """Run a command to its end; its output. Raises RuntimeError with what it says."""
        process = await asyncio.create_subprocess_exec(
            *self.command(*arguments), env=self.variables,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)  # fmt: skip
        told, complaint = await process.communicate()
        if process.returncode != 0:
            raise RuntimeError(complaint.decode().strip())
        return told.decode()


async def run(drill: Drill) -> list[Finding]:
    cluster = drill.cluster
    await _prepare(drill)
    following = await asyncio.create_subprocess_exec(*drill.command("follow"), env=drill.variables)
    try:
        async with _load(drill):
            await _until_backed_up(drill)
            await asyncio.sleep(drill.load_s)
        hashes, lsn = await cluster.hashes(), await _lsn(cluster)
        async with _load(drill):
            await _until_sealed(drill)
            await asyncio.sleep(drill.load_s)
            cluster.kill()
            killed = time.time()
    finally:
        following.kill()  # Its spool goes with the machine.
        await following.wait()
    size_mb = _size_bytes(cluster.data) / 1e6
    cluster.destroy()
    shutil.rmtree(drill.secrets)
    shutil.rmtree(drill.home / "spool")
    begun_s = time.monotonic()
    await _restored(drill)
    restored_s = time.monotonic() - begun_s
    intact = await _chain_is_whole(drill)
    rto_s = time.monotonic() - begun_s
    lost, rpo_s = await _lost(drill, killed)
    cluster.stop()
    await _restored(drill, "--until", lsn, "--replace")
    differing = [name for name, found in (await cluster.hashes()).items() if hashes.pop(name, "") != found]
    cluster.stop()
    return [
        Finding(name="size of the data", value=size_mb, unit="MB"),
        Finding(name="rows committed under load", value=len(drill.acknowledged.rows)),
        Finding(name="of them lost", value=lost),
        Finding(name="RPO", value=rpo_s, unit="s", goal=f"<= {RPO_S_MAX:g} s", holds=rpo_s <= RPO_S_MAX),
        Finding(name="restore alone", value=restored_s, unit="s"),
        Finding(name="RTO", value=rto_s, unit="s", goal=f"<= {RTO_S_MAX:g} s", holds=rto_s <= RTO_S_MAX),
        Finding(name="audit events appended", value=drill.acknowledged.event_count),
        Finding(name="audit chain is whole", value=float(intact), goal="= 1", holds=intact),
        Finding(name="tables that differ", value=len(differing) + len(hashes), goal="= 0",
                holds=not differing and not hashes),
    ]  # fmt: skip


async def _prepare(drill: Drill) -> None:
    cluster = drill.cluster
    postgres.prepare(cluster.data, password=cluster.password)
    await cluster.start(database="postgres")
    await migrate(cluster.migrations, say=lambda _: None)
    drill.secrets.mkdir(mode=0o700)
    (drill.secrets / "encryption_key").write_text(drill.encryption_key)
    (drill.home / "passphrase").write_text(secrets.token_urlsafe(24))
    connection = await asyncpg.connect(cluster.admin_dsn)
    try:
        await connection.execute("CREATE SCHEMA drill; CREATE TABLE drill.ledger (n bigint PRIMARY KEY)")
        file_id = await connection.fetchval(
            "INSERT INTO inference.files (file_id, organization_id, user_id, filename, size_bytes, expire_time)"
            " VALUES (gen_random_uuid(), 'drill', 'drill', '\\x00', 0, now() + interval '1 day') RETURNING file_id"
        )
        parts = (
            (file_id, number, os.urandom(PART_BYTES)) for number in range(drill.size_mb * 10**6 // PART_BYTES)
        )
        await connection.copy_records_to_table("file_parts", schema_name="inference", records=parts)
    finally:
        await connection.close()


def _auth(drill: Drill) -> Config:
    """With the key that lies in the secrets: that of the drill is only there to be compared."""
    key = (drill.secrets / "encryption_key").read_text()
    return auth_app.config(drill.cluster.service_dsn("auth"), encryption_key=key)


@asynccontextmanager
async def _load(drill: Drill) -> AsyncIterator[None]:
    """Until the block ends. That the database goes away in it is nobody's failure."""
    async with AsyncExitStack() as opened:
        auth = await opened.enter_async_context(auth_app.serving(_auth(drill)))
        tasks = [asyncio.create_task(_commit(drill)), asyncio.create_task(_append(drill, auth))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _commit(drill: Drill) -> None:
    connection = await asyncpg.connect(drill.cluster.admin_dsn)
    try:
        for number in range(len(drill.acknowledged.rows), 1 << 62):
            await connection.execute("INSERT INTO drill.ledger VALUES ($1)", number)
            drill.acknowledged.rows.append((number, time.time()))
            await asyncio.sleep(0.01)
    finally:
        connection.terminate()


async def _append(drill: Drill, auth: auth_app.Auth) -> None:
    while True:
        event = AuditEvent(
            action="AUDIT_ACTION_MODEL_CHANGED",
            outcome="AUDIT_OUTCOME_ALLOWED",
            user_id="user:drill",
            organization_id="default",
            service="inference",
            object="model/drill",
        )
        request = pb.RecordAuditEventsRequest(request_id=secrets.token_hex(8), events=[event])
        await auth.service.RecordAuditEvents(request, timeout=TIMEOUT_S)
        drill.acknowledged.event_count += 1
        await asyncio.sleep(0.05)


async def _until_backed_up(drill: Drill) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            with suppress(RuntimeError):
                if "sealed up to" in (told := await drill.backup("ls")) and "MiB" in told:
                    return
            await asyncio.sleep(0.2)


async def _until_sealed(drill: Drill) -> None:
    """All that was in the log when this was called: so it is behind the second round from now."""
    mark = drill.home / "backups" / "wal" / ".followed"
    async with asyncio.timeout(WAIT_S):
        for _ in range(2):
            before = mark.stat().st_mtime_ns
            while mark.stat().st_mtime_ns == before:
                await asyncio.sleep(0.05)


async def _lsn(cluster: Cluster) -> str:
    connection = await asyncpg.connect(cluster.admin_dsn)
    try:
        found: str = await connection.fetchval("SELECT pg_current_wal_lsn()::text")
        return found
    finally:
        await connection.close()


async def _restored(drill: Drill, *more: str) -> None:
    await drill.backup("restore", "--data", str(drill.cluster.data), "--secrets", str(drill.secrets), *more)
    await drill.cluster.start()


async def _chain_is_whole(drill: Drill) -> bool:
    """By the auth service itself, which signs with the restored key; all pages."""
    async with auth_app.serving(_auth(drill)) as auth:
        login = pb.LoginRequest(username="admin", password=auth_app.ADMIN_PASSWORD)
        who = bearer((await auth.service.Login(login, timeout=TIMEOUT_S)).tokens.access_token)
        answer = await auth.service.VerifyAuditLog(
            pb.VerifyAuditLogRequest(), metadata=who, timeout=TIMEOUT_S
        )
        return answer.intact and answer.event_count > 0


async def _lost(drill: Drill, killed: float) -> tuple[int, float]:
    """How many acknowledged rows are gone, and how long before the kill the first of them was acknowledged."""
    connection = await asyncpg.connect(drill.cluster.admin_dsn)
    try:
        there = {row[0] for row in await connection.fetch("SELECT n FROM drill.ledger")}
    finally:
        await connection.close()
    lost = [when for number, when in drill.acknowledged.rows if number not in there]
    return len(lost), max(0.0, killed - min(lost)) if lost else 0.0


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@asynccontextmanager
async def place() -> AsyncIterator[Drill]:
    """A drill in a folder of its own, of which nothing is left."""
    folder = Path(tempfile.mkdtemp(prefix="ollamesh-test-"))
    (folder / "home").mkdir()
    cluster = Cluster(folder)
    try:
        yield Drill(cluster=cluster, home=folder / "home")
    finally:
        cluster.stop()
        shutil.rmtree(folder)


async def main() -> int:
    async with place() as drill:
        drill.size_mb = int(os.environ.get("SIZE_MB") or SIZE_MB)
        return report("drill-restore", await run(drill))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
