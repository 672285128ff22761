"""What `follow` does when it cannot go on as it likes: its slot was lost, or nothing can be sealed."""

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from deploy.backup import base, follow, verify
from deploy.backup.config import Config
from deploy.backup.follow import SLOT, Follower
from deploy.backup.repository import Backup, Repository
from deploy.local import postgres
from tests.drills.cluster import Cluster
from tests.stack import run

WITHIN_S = 120.0
LOST = "SELECT count(*) FROM pg_replication_slots WHERE wal_status = 'lost'"
SLOTS = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '" + SLOT + "'"
COMMAND = postgres.command


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One that keeps little log for who is away."""
    forgetful = ("max_slot_wal_keep_size=64MB", "max_wal_size=32MB", "min_wal_size=32MB")
    made = Cluster(Path(tempfile.mkdtemp(prefix="ollamesh-test-")))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            postgres,
            "command",
            lambda **how: (*COMMAND(**how), *(word for one in forgetful for word in ("-c", one))),
        )
        try:
            postgres.prepare(made.data, password=made.password, durable=False)
            made.spawn()
            run(made.until_ready(database="postgres"))
            run(_ask(made, "CREATE DATABASE ollamesh", database="postgres"))
            yield made
        finally:
            made.stop()
            shutil.rmtree(made.folder)


@pytest.fixture
def config(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    folder = Path(tempfile.mkdtemp(dir=cluster.folder))
    made = Config(
        folder=folder / "backups",
        passphrase="correct horse battery",
        admin_dsn=cluster.admin_dsn,
        spool=folder / "spool",
        seal_every_s=0.1,
        metrics_port=0,
    )
    # For the base backups, which are processes of their own.
    monkeypatch.setenv("OLLAMESH_BACKUP_FOLDER", str(made.folder))
    monkeypatch.setenv("OLLAMESH_BACKUP_PASSPHRASE", made.passphrase)
    monkeypatch.setenv("OLLAMESH_ADMIN_DATABASE_URL", made.admin_dsn)
    yield made
    run(
        _ask(
            cluster,
            f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{SLOT}'",
        )
    )


async def _ask(cluster: Cluster, *statements: str, database: str | None = None) -> object:
    connection = await asyncpg.connect(cluster.admin_dsn, database=database)
    try:
        answers = [await connection.fetchval(statement) for statement in statements]
        return answers[-1]
    finally:
        await connection.close()


@contextmanager
def following(config: Config) -> Iterator[list[str]]:
    """What it says, meanwhile."""
    said: list[str] = []
    follower = Follower(config, say=said.append)
    thread = threading.Thread(target=follower.run)
    thread.start()
    try:
        yield said
    finally:
        follower.stop()
        thread.join()


def until(is_so: Callable[[], object]) -> None:
    end_s = time.monotonic() + WITHIN_S
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.05)


def newest(config: Config) -> Backup:
    return Repository.open(config.folder, config.passphrase).newest()


@pytest.mark.timeout(300)
def test_who_was_away_for_too_long_begins_anew_behind_the_gap(cluster: Cluster, config: Config) -> None:
    first = base.create(config)
    with following(config):
        until(lambda: any((config.folder / "wal").glob("*.partial.sealed")))
    run(_ask(cluster, "CREATE TABLE written (at int)"))
    for _ in range(12):
        run(_ask(cluster, "INSERT INTO written VALUES (1)", "SELECT pg_switch_wal()", "CHECKPOINT"))
    assert run(_ask(cluster, LOST)) == 1
    with following(config) as said:
        until(lambda: newest(config).id != first.id)
        until(lambda: any((config.folder / "wal").glob(f"{newest(config).start.name}*")))
    assert any("let go of log that is not here" in line for line in said)
    repository = Repository.open(config.folder, config.passphrase)
    assert verify.verify(repository, newest(config)).segment_count >= 1


@pytest.mark.timeout(300)
def test_no_more_is_fetched_than_the_spool_may_hold(
    cluster: Cluster, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "SPOOL_BYTES_MAX", 1 << 20)
    base.create(config)
    assert config.spool is not None
    config.spool.mkdir()
    waiting = config.spool / f"{1:024X}"
    waiting.write_bytes(b"x" * (2 << 20))
    with following(replace(config, bytes_max=1 << 20)) as said:
        until(lambda: sum("no more is fetched" in line for line in said) > 2)
        assert any("is full" in line for line in said)
        assert run(_ask(cluster, SLOTS)) == 0, "pg_receivewal was never begun"
    assert waiting.exists()
    monkeypatch.setattr(follow, "SPOOL_BYTES_MAX", 1 << 30)
    with following(config):
        until(lambda: not waiting.exists())
        until(lambda: run(_ask(cluster, SLOTS)) == 1)
