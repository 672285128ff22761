"""Backups of a real PostgreSQL: what counts as one, what is refused, and that all of it comes back."""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from deploy.backup import base, verify
from deploy.backup import restore as restoring
from deploy.backup.config import Config
from deploy.backup.errors import BackupError, DamagedError, WrongPassphraseError
from deploy.backup.repository import Backup, Repository
from deploy.backup.restore import Target, restore
from deploy.backup.sealing import Reader, Sealer, opened
from deploy.local import postgres
from services.auth.backup_metrics import backups_watched
from tests.drills import restore as drill
from tests.drills.cluster import Cluster
from tests.stack import run

SECRET = "hush-hush-nobody-reads-this"
PASSPHRASE = "correct horse battery"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="ollamesh-test-"))
    made = Cluster(folder)
    try:
        postgres.prepare(made.data, password=made.password, durable=False)
        made.spawn()
        run(made.until_ready(database="postgres"))
        run(_execute(made, "CREATE DATABASE ollamesh", database="postgres"))
        run(_execute(made, f"CREATE TABLE kept AS SELECT '{SECRET}' AS text"))
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def first(cluster: Cluster) -> Config:
    """A folder with one backup, which each test copies."""
    folder = cluster.folder / "first"
    (folder / "secrets").mkdir(parents=True)
    (folder / "secrets" / "encryption_key").write_text(SECRET)
    config = Config(
        folder=folder / "backups",
        passphrase=PASSPHRASE,
        admin_dsn=cluster.admin_dsn,
        secrets=folder / "secrets",
    )
    base.create(config)
    return config


@pytest.fixture
def config(first: Config) -> Iterator[Config]:
    home = Path(tempfile.mkdtemp(dir=first.folder.parent.parent))
    shutil.copytree(first.folder, home / "backups")
    yield replace(first, folder=home / "backups")
    shutil.rmtree(home)


@pytest.fixture
def made(config: Config) -> Backup:
    return repository(config).newest()


async def _execute(cluster: Cluster, statement: str, *, database: str | None = None) -> None:
    connection = await asyncpg.connect(cluster.admin_dsn, database=database)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def repository(config: Config) -> Repository:
    return Repository.open(config.folder, config.passphrase)


def target(config: Config, **more: object) -> Target:
    assert config.secrets is not None
    home = config.folder.parent
    return replace(Target(data=home / "data", secrets=home / "restored"), **more)  # type: ignore[arg-type]


def files(config: Config) -> set[Path]:
    return {path for path in config.folder.rglob("*") if path.is_file()}


@pytest.mark.asyncio
@pytest.mark.timeout(600)
async def test_the_drill_on_little_data() -> None:
    """Load, backup, more load, destroy, restore, compare: `make drill-restore` at its shortest."""
    async with drill.place() as one:
        one.size_mb, one.load_s, one.seal_every_s = 1, 0.2, 0.5
        findings = await drill.run(one)
    assert all(found.holds for found in findings), findings
    values = {found.name: found.value for found in findings}
    assert values["rows committed under load"] > 10
    assert values["audit events appended"] > 1


def test_nothing_in_the_folder_can_be_read_and_all_of_it_is_private(config: Config, made: Backup) -> None:
    assert made.secrets_sha256
    for path in files(config):
        content = path.read_bytes()
        assert SECRET.encode() not in content
        assert PASSPHRASE.encode() not in content
    sealed = [path for path in files(config) if path.suffix in {".sealed", ".json"}]
    assert all(path.stat().st_mode & 0o077 == 0 for path in sealed)
    assert config.folder.stat().st_mode & 0o077 == 0


def test_auth_can_tell_monitoring_of_the_last_one(config: Config, made: Backup) -> None:
    registry = CollectorRegistry()
    backups_watched(registry, config.folder / "metrics" / "ollamesh_backup.prom")
    told = {
        (sample.name.removeprefix("ollamesh_backup_"), sample.labels["kind"]): sample.value
        for family in registry.collect()
        for sample in family.samples
    }
    assert told == {
        ("last_success_timestamp_seconds", "base"): pytest.approx(made.finished),
        ("duration_seconds", "base"): pytest.approx(made.finished - made.started),
        ("size_bytes", "base"): made.sealed_bytes,
    }


def test_secrets_and_rows_come_back(config: Config, cluster: Cluster, made: Backup) -> None:
    place = target(config)
    assert restore(config, made.id, place) == made
    assert place.secrets is not None
    assert (place.secrets / "encryption_key").read_text() == SECRET
    with pytest.raises(BackupError, match="not empty"):
        restore(config, made.id, place)
    restored = Cluster(place.data.parent, password=cluster.password)
    try:
        restored.spawn()
        run(restored.until_ready())
        assert run(restored.hashes()) == run(cluster.hashes())
        # It is running now, and no flag makes anybody's data go from under a server.
        with pytest.raises(BackupError, match="running"):
            restore(config, made.id, replace(place, replace=True))
    finally:
        restored.stop()


def test_secrets_that_are_links_are_sealed_as_what_they_lead_to(config: Config) -> None:
    """Kubernetes mounts a secret as links into a folder that it exchanges."""
    secrets = config.folder.parent / "mounted"
    (secrets / "..data").mkdir(parents=True)
    (secrets / "..data" / "encryption_key").write_text(SECRET)
    (secrets / "encryption_key").symlink_to("..data/encryption_key")
    second = base.create(replace(config, secrets=secrets))
    found = repository(config)
    frames = opened(found.file(second.id, "secrets.tar"), found.key, f"{second.id}/secrets.tar")
    with tarfile.open(fileobj=Reader(frames), mode="r|") as tar:  # type: ignore[call-overload]  # It only reads.
        kept = {one.name: (content.read() if (content := tar.extractfile(one)) else b"") for one in tar}
    assert kept == {"encryption_key": SECRET.encode()}


def test_what_is_too_large_for_a_secret_is_told_and_not_left_out(config: Config, made: Backup) -> None:
    secrets = config.folder.parent / "large"
    secrets.mkdir()
    (secrets / "model").write_bytes(b"x" * (base.SECRET_BYTES_MAX + 1))
    with pytest.raises(BackupError, match="model is too large"):
        base.create(replace(config, secrets=secrets))
    assert repository(config).ids() == [made.id]


def test_no_secret_is_left_in_plain_by_a_restore_that_fails(
    config: Config, made: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsealed: list[Path] = []

    def full(new: Path, place: Path) -> None:
        unsealed.extend(place.parent.glob("*.restoring/encryption_key"))
        raise OSError(28, "No space left on device", str(new))

    monkeypatch.setattr(restoring, "_move_in", full)
    with pytest.raises(BackupError, match="nothing was restored: No space"):
        restore(config, made.id, target(config))
    assert len(unsealed) == 1
    assert list(config.folder.parent.glob("*.restoring")) == []


def test_a_key_that_is_gone_is_not_replaced_by_another(config: Config, made: Backup) -> None:
    """A new one would let backups go on that nobody can tell from those which nobody can open."""
    key = config.folder / "key.json"
    kept = key.rename(config.folder.parent / "key.json")
    with pytest.raises(BackupError, match=r"key\.json is gone"):
        base.create(config)
    kept.rename(key)
    assert repository(config).newest() == made


@pytest.mark.parametrize("name", ["base.tar.sealed", "secrets.tar.sealed", "backup.json"])
@pytest.mark.parametrize("is_gone", [False, True])
def test_damage_is_found_and_not_restored(config: Config, made: Backup, name: str, *, is_gone: bool) -> None:
    path = config.folder / "base" / made.id / name
    if is_gone:
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(BackupError):
        verify.verify(found := repository(config), found.backup(made.id))
    place = target(config)
    with pytest.raises(BackupError):
        restore(config, made.id, place)
    assert not place.data.exists()
    assert [path.name for path in config.folder.parent.iterdir() if "restoring" in path.name] == []


def test_somebody_else_s_backup_json_is_not_believed(config: Config, made: Backup) -> None:
    path = config.folder / "base" / made.id / "backup.json"
    path.write_text(path.read_text().replace(made.server_version, "99.9"))
    with pytest.raises(DamagedError, match="changed"):
        repository(config).newest()


def test_another_passphrase_opens_nothing(config: Config, made: Backup) -> None:
    wrong = replace(config, passphrase="x" * 20)
    with pytest.raises(WrongPassphraseError):
        restore(wrong, made.id, target(config))
    with pytest.raises(WrongPassphraseError):
        base.create(wrong)
    assert repository(config).ids() == [made.id]


def test_the_passphrase_can_be_changed_and_old_backups_open_with_the_new_one(
    config: Config, made: Backup
) -> None:
    repository(config).change_passphrase("another passphrase")
    with pytest.raises(WrongPassphraseError):
        repository(config)
    changed = replace(config, passphrase="another passphrase")
    assert verify.verify(repository(changed), made).backup == made


def seal_segment(config: Config, made: Backup, ahead: int, suffix: str = "") -> None:
    found = repository(config)
    name = replace(made.start, number=made.start.number + ahead).name + suffix
    with (found.wal / f"{name}.sealed").open("wb") as file:
        sealer = Sealer(file, found.key, f"wal/{name}")
        sealer.write(b"")
        sealer.close()


def test_a_missing_segment_is_named_and_nothing_is_restored_over_it(config: Config, made: Backup) -> None:
    found = repository(config)
    for ahead in (1, 2, 4):
        seal_segment(config, made, ahead)
    missing = replace(made.start, number=made.start.number + 3).name
    with pytest.raises(DamagedError, match=missing):
        verify.verify(found, made)
    with pytest.raises(BackupError, match=f"{missing}.*--up-to-gap"):
        restore(config, made.id, target(config))
    seal_segment(config, made, 3)
    assert verify.verify(found, made).segment_count == 4


def test_the_beginning_of_a_segment_is_a_gap_once_there_are_later_ones(config: Config, made: Backup) -> None:
    """A replay would end in it, and lose all that comes behind without a word."""
    seal_segment(config, made, 1)
    seal_segment(config, made, 2, ".partial")
    found = repository(config)
    assert verify.verify(found, made).segment_count == 2
    seal_segment(config, made, 3)
    with pytest.raises(DamagedError, match=replace(made.start, number=made.start.number + 2).name):
        verify.verify(found, made)


def test_a_full_disk_leaves_no_half_backup(config: Config, made: Backup) -> None:
    """As the kernel says it: no file of this process may grow beyond a limit."""
    before = files(config)
    done = subprocess.run(
        ["prlimit", f"--fsize={1 << 20}", sys.executable, "-m", "deploy.backup", "create"],
        env={**os.environ, **variables(config)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "the backup was not made: File too large" in done.stderr
    assert files(config) == before
    assert repository(config).ids() == [made.id]


def test_a_backup_that_would_not_fit_is_not_begun(config: Config, made: Backup) -> None:
    with pytest.raises(BackupError, match="nothing was begun"):
        base.create(replace(config, bytes_max=1 << 20))
    assert repository(config).ids() == [made.id]


def test_what_a_killed_backup_left_does_not_count_and_goes(config: Config, made: Backup) -> None:
    left = config.folder / "base" / "20990101T000000Z.unfinished"
    shutil.copytree(config.folder / "base" / made.id, left)
    assert repository(config).ids() == [made.id]
    second = base.create(replace(config, keep_count=1))
    assert not left.exists()
    assert repository(config).ids() == [second.id]  # And of the finished ones, as many as are to be kept.


def test_one_folder_is_for_one_database(config: Config, made: Backup) -> None:
    assert made
    (config.folder / "system").write_text("another")
    with pytest.raises(BackupError, match="another database"):
        base.create(config)


def test_wal_that_nobody_needs_goes_with_its_backup(config: Config, made: Backup) -> None:
    seal_segment(config, made, -1)
    seal_segment(config, made, 1)
    base.expire(found := repository(config), 1)
    assert {segment.number - made.start.number for segment in found.segments()} == {1}


@pytest.mark.parametrize("until", ["yesterday", "2026-11-30T12:00:00", "0/zz"])
def test_a_time_that_is_none_is_refused_before_anything_happens(
    config: Config, made: Backup, until: str
) -> None:
    with pytest.raises(BackupError, match="--until"):
        restore(config, made.id, target(config, until=until))


def test_a_time_that_the_log_does_not_reach_is_refused_and_leaves_nothing(
    config: Config, made: Backup
) -> None:
    place = target(config, until="2999-01-01T00:00:00Z")
    with pytest.raises(BackupError, match="before configured recovery target"):
        restore(config, made.id, place)
    assert not place.data.exists()
    assert list(config.folder.parent.glob("*restoring*")) == []


def variables(config: Config) -> dict[str, str]:
    return {
        "OLLAMESH_BACKUP_FOLDER": str(config.folder),
        "OLLAMESH_BACKUP_PASSPHRASE": config.passphrase,
        "OLLAMESH_ADMIN_DATABASE_URL": config.admin_dsn,
    }


def test_the_command_says_what_there_is_and_names_what_is_missing(config: Config, made: Backup) -> None:
    def command(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "deploy.backup", *arguments],
            env={"PATH": os.environ["PATH"], **env},
            capture_output=True,
            text=True,
            check=False,
        )

    shown = command("ls", **variables(config))
    assert shown.stdout.startswith(made.id)
    whole = command("verify", **variables(config))
    assert f"{made.id} is whole" in whole.stdout
    nothing = command("create")
    assert nothing.returncode == 1
    assert "OLLAMESH_BACKUP_PASSPHRASE" in nothing.stderr
    assert "OLLAMESH_ADMIN_DATABASE_URL" in nothing.stderr
    assert "Traceback" not in nothing.stderr
