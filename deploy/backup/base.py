"""Makes a base backup: what PostgreSQL sends, sealed on its way, so that nothing readable touches the folder."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import asyncpg

from deploy.backup import contents, core, metrics
from deploy.backup.config import Config
from deploy.backup.contents import Manifest
from deploy.backup.errors import BackupError
from deploy.backup.repository import BASE, SEALED, SECRETS, UNFINISHED, Backup, Repository, write, writing
from deploy.backup.sealing import Reader, Sealer, opened
from services.common.launch import Guard

CONNECT_TIMEOUT_S = 10.0
BLOCK_BYTES = 1 << 20
SECRET_BYTES_MAX = 1 << 20  # Of one file: a folder that holds larger ones is not one of secrets.


def create(config: Config) -> Backup:
    """Return when it is on disk, verified and counts. Raises BackupError, and leaves nothing half done."""
    repository = Repository.open(config.folder, config.passphrase, make=True)
    with repository.locked("create"):
        for left in repository.bases.glob(f"*{UNFINISHED}"):
            shutil.rmtree(left)  # Of one that was killed.
        identifier, version, size_bytes = asyncio.run(_ask(config.admin_dsn))
        check_system(repository, identifier)
        _check_space(config, repository, size_bytes)
        started = time.time()
        name = _new_id(repository, started)
        unfinished = repository.bases / f"{name}{UNFINISHED}"
        unfinished.mkdir(mode=0o700)
        try:
            with _wal_kept(config.admin_dsn):
                backup = _build(config, repository, unfinished, name=name, started=started, version=version)
            repository.publish(unfinished, backup)
        except OSError as error:
            raise BackupError(f"the backup was not made: {error.strerror or error}") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        expire(repository, config.keep_count)
        with contextlib.suppress(OSError):
            metrics.report(repository)
        return backup


def check_system(repository: Repository, identifier: str) -> None:
    """Two clusters' WAL has the same names: in one folder, one would overwrite the other's. Raises BackupError."""
    path = repository.folder / "system"
    if not path.exists():
        write(
            path, identifier.encode(), new=True
        )  # Whole or not at all: another process may read it just now.
    if path.read_text() != identifier:
        raise BackupError(f"{repository.folder} holds the backups of another database: take another folder")


def expire(repository: Repository, keep_count: int) -> None:
    """Remove what is older than the backups that are kept, and WAL that leads to none of them."""
    for name in core.superfluous(repository.ids(), keep_count):
        repository.remove(name)
    starts = [repository.backup(name).start for name in repository.ids()]
    there = repository.segments()
    for segment in core.expendable(there.keys(), starts):
        there[segment].unlink()


def _build(
    config: Config, repository: Repository, folder: Path, *, name: str, started: float, version: str
) -> Backup:
    with writing(folder / f"{BASE}{SEALED}") as file:
        base = Sealer(file, repository.key, f"{name}/{BASE}")
        for block in _sent(config):
            base.write(block)
        base.close()
    secrets_sha256 = _seal_secrets(config, repository, folder, name)
    # Read back from where it lies: what cannot be read again is no backup.
    frames = opened(folder / f"{BASE}{SEALED}", repository.key, f"{name}/{BASE}")
    manifest: Manifest = contents.check(Reader(frames))
    return Backup(
        id=name,
        system_identifier=str(manifest.system_identifier),
        server_version=version,
        timeline=manifest.ranges[-1].timeline,
        start_lsn=manifest.ranges[0].start_lsn,
        end_lsn=manifest.ranges[-1].end_lsn,
        started=started,
        finished=time.time(),
        plain_bytes=base.plain_bytes,
        sealed_bytes=base.sealed_bytes,
        base_sha256=base.digest.hexdigest(),
        secrets_sha256=secrets_sha256,
    )


def _sent(config: Config) -> Iterator[bytes]:
    """The archive, as pg_basebackup writes it. Raises BackupError with the server's reason."""
    dsn, env = without_password(config.admin_dsn)
    argv = (
        *(config.program("pg_basebackup"), "--dbname", dsn, "--pgdata", "-", "--format", "tar"),
        *("--wal-method", "fetch", "--checkpoint", "fast", "--manifest-checksums", "SHA256"),
        *("--label", "ollamesh", "--no-password"),
    )
    with subprocess.Popen(
        Guard().command(argv), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            while block := process.stdout.read(BLOCK_BYTES):
                yield block
        except BaseException:
            process.kill()
            raise
        complaint = process.stderr.read(BLOCK_BYTES).decode(errors="replace").strip()
    if process.returncode != 0:
        raise BackupError(
            f"PostgreSQL sent no backup: {complaint.splitlines()[-1] if complaint else 'it gave no reason'}"
        )


def _seal_secrets(config: Config, repository: Repository, folder: Path, name: str) -> str:
    if config.secrets is None or not config.secrets.is_dir():
        return ""
    with writing(folder / f"{SECRETS}{SEALED}") as file:
        sealer = Sealer(file, repository.key, f"{name}/{SECRETS}")
        # Kubernetes' secrets are links; what they lead to counts.
        with tarfile.open(fileobj=sealer, mode="w|", dereference=True) as tar:  # type: ignore[call-overload]  # It only writes.
            for path in sorted(config.secrets.iterdir()):
                if path.is_file():
                    if path.stat().st_size > SECRET_BYTES_MAX:
                        raise BackupError(
                            f"{path} is too large for a secret: nothing else belongs in that folder"
                        )
                    tar.add(path, arcname=path.name)
        sealer.close()
    return sealer.digest.hexdigest()


def without_password(dsn: str) -> tuple[str, dict[str, str]]:
    """For PostgreSQL's programs: everybody may read the arguments of a process, only its owner the environment."""
    parts = urlsplit(dsn)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    place = f"{parts.username or ''}@{host}" + (f":{parts.port}" if parts.port else "")
    env = {"PATH": os.defpath, "PGPASSWORD": unquote(parts.password or ""), "PGCONNECT_TIMEOUT": "10"}
    return urlunsplit((parts.scheme, place, parts.path, parts.query, "")), env


async def _ask(dsn: str) -> tuple[str, str, int]:
    """Raises BackupError."""
    try:
        connection = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_S)
        try:
            row = await connection.fetchrow(
                "SELECT (SELECT system_identifier::text FROM pg_control_system()) AS identifier,"
                " current_setting('server_version') AS version,"
                " (SELECT sum(pg_database_size(oid))::bigint FROM pg_database) AS size_bytes"
            )
        finally:
            await connection.close()
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise BackupError("no PostgreSQL answers at OLLAMESH_ADMIN_DATABASE_URL") from error
    assert row is not None
    return row["identifier"], row["version"], row["size_bytes"]


@contextmanager
def _wal_kept(dsn: str) -> Iterator[None]:
    """The server keeps its log from now on: the backup ends with what was written while it was made.

    By a slot that lasts as long as its connection, so nothing is left of it whatever happens. Raises BackupError.
    """
    with asyncio.Runner() as runner:
        try:
            connection = runner.run(asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_S))
            slot = f"ollamesh_base_{os.getpid()}"
            runner.run(connection.execute("SELECT pg_create_physical_replication_slot($1, true, true)", slot))
        except (OSError, TimeoutError, asyncpg.PostgresError) as error:
            raise BackupError("PostgreSQL does not give a replication slot") from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                runner.run(connection.close(timeout=CONNECT_TIMEOUT_S))


def identifier_of(dsn: str) -> str:
    return asyncio.run(_ask(dsn))[0]


def _check_space(config: Config, repository: Repository, size_bytes: int) -> None:
    """Compressed it takes less; whoever is that close to the end must not find out at it."""
    free_bytes = shutil.disk_usage(config.folder).free
    left_bytes = min(free_bytes, config.bytes_max - repository.size_bytes())
    if size_bytes > left_bytes:
        raise BackupError(
            f"the database has {size_bytes >> 20} MiB, and {config.folder} has room for {max(0, left_bytes) >> 20}:"
            " nothing was begun"
        )


def _new_id(repository: Repository, started: float) -> str:
    while True:
        name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(started))
        if name not in repository.ids():
            return name
        started += 1
