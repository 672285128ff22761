"""The stack's real stores under the real supervisor, as root and as an ordinary user."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import msgspec
import psutil
import pytest
import redis as redis_client

from deploy.local import postgres, stack
from deploy.local.errors import StackError
from deploy.local.secret_files import SecretFiles
from deploy.local.settings import DEFAULT_PORTS, ROOT, Settings
from deploy.local.stack import Status
from services.common.launch import NOBODY
from tests.fakes import stores_only
from tests.stack import AT_ONCE, run

WITHIN_S = 20.0
is_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """A home that only its owner can enter, like everything of pytest's."""
    home = tmp_path / "home"
    settings = Settings(
        home=home, cache=tmp_path / "cache", ports=dict.fromkeys(DEFAULT_PORTS, 0), inherited=dict(os.environ)
    )
    yield settings
    stack.down(settings, lambda _: None)


def pid(status: Status, name: str) -> int:
    found = next(part.pid for part in status.parts if part.name == name)
    assert found is not None
    return found


def eventually(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < end_s, "it never came true"
        time.sleep(0.02)


async def execute(settings: Settings, statement: str) -> object:
    connection = await asyncpg.connect(SecretFiles(settings.home).read("admin_database_url"))
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def test_what_is_committed_survives_a_kill_and_a_restart(settings: Settings) -> None:
    stores_only.up(settings)
    status = stack.status(settings)
    assert status.ready is True
    assert {part.name: part.state for part in status.parts} == {
        "postgres": "ready",
        "redis": "ready",
        "migrate": "done",
    }
    assert all(part.rss_bytes > 0 for part in status.parts if part.pid)
    run(execute(settings, "CREATE TABLE kept AS SELECT 42 AS answer"))
    os.kill(pid(status, "postgres"), signal.SIGKILL)
    eventually(
        lambda: (
            stack.status(settings).ready
            and pid(stack.status(settings), "postgres") != pid(status, "postgres")
        )
    )
    assert run(execute(settings, "SELECT answer FROM kept")) == 42
    assert stack.down(settings, lambda _: None) is True
    stores_only.up(settings)
    assert run(execute(settings, "SELECT answer FROM kept")) == 42


def test_a_killed_supervisor_leaves_no_server_and_sound_data(settings: Settings) -> None:
    stores_only.up(settings)
    status = stack.status(settings)
    assert status.supervisor_pid is not None
    servers = [psutil.Process(pid(status, name)) for name in ("postgres", "redis")]
    everything = [process for server in servers for process in (server, *server.children(recursive=True))]
    os.kill(status.supervisor_pid, signal.SIGKILL)
    eventually(
        lambda: not any(process.is_running() and process.status() != "zombie" for process in everything)
    )
    stores_only.up(settings)
    assert stack.status(settings).ready is True


def test_the_stores_take_no_stranger(settings: Settings) -> None:
    stores_only.up(settings)
    ports = {part.name: part.port for part in stack.status(settings).parts}
    for password in ("", "guess"):
        stranger = redis_client.Redis(port=ports["redis"] or 0, password=password, retry=AT_ONCE)
        with pytest.raises(redis_client.AuthenticationError), stranger:
            stranger.ping()
        with pytest.raises(asyncpg.InvalidPasswordError):
            run(asyncpg.connect(f"postgresql://ollamesh:{password}@127.0.0.1:{ports['postgres']}/postgres"))


def test_secrets_are_made_once_and_for_their_owner_alone(settings: Settings) -> None:
    stores_only.up(settings)
    secrets = SecretFiles(settings.home)
    before = {path.name: path.read_text() for path in secrets.folder.iterdir()}
    assert secrets.too_open() == []
    assert len(set(before.values())) == len(before), "no two are alike"
    stack.down(settings, lambda _: None)
    stores_only.up(settings)
    after = {path.name: path.read_text() for path in secrets.folder.iterdir()}
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {
        "redis.conf",
        "redis_exporter.json",
        "redis_url",
        "admin_database_url",
        "auth_database_url",
        "agent_database_url",
        "inference_database_url",
    }


@is_root
def test_as_root_no_server_runs_as_root_and_no_folder_is_opened(settings: Settings) -> None:
    stores_only.up(settings)
    status = stack.status(settings)
    for name in ("postgres", "redis"):
        assert psutil.Process(pid(status, name)).uids().real == NOBODY
    assert settings.home.parent.stat().st_mode & 0o077 == 0, "pytest's folder is as closed as it was"


@is_root
@pytest.mark.skipif(
    not all(
        folder.stat().st_mode & 0o001 for folder in (*Path(sys.executable).resolve().parents, *ROOT.parents)
    ),
    reason="this checkout or its Python lies where an ordinary user cannot go",
)
def test_an_ordinary_user_runs_it_too() -> None:
    home = Path(tempfile.mkdtemp(prefix="ollamesh-user-"))
    os.chown(home, NOBODY, NOBODY)
    env = Settings(
        home=home / "home", cache=home / "cache", ports=dict.fromkeys(DEFAULT_PORTS, 0)
    ).variables()

    def do(command: str) -> str:
        argv = [sys.executable, "-m", "tests.fakes.stores_only", command]
        return subprocess.run(
            argv, env={**env, "PATH": os.defpath}, cwd=ROOT, user=NOBODY, group=NOBODY, extra_groups=[],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip

    try:
        do("up")
        status = msgspec.json.decode(do("status"), type=Status)
        assert status.ready is True
        assert {psutil.Process(pid(status, name)).uids().real for name in ("postgres", "redis")} == {NOBODY}
        do("down")
        assert msgspec.json.decode(do("status"), type=Status).running is False
    finally:
        do("down")
        shutil.rmtree(home)


# Ids of their own, so that two processes name the tests alike.
@pytest.mark.parametrize(
    "named", [str(os.getpid()), "2147480000", "nonsense", ""], ids=["alive", "dead", "nonsense", "empty"]
)
def test_a_lock_that_a_crash_left_does_not_keep_postgres_from_starting(named: str) -> None:
    """Of the machine, after which the pid is nobody's or another program's."""
    folder = Path(tempfile.mkdtemp(prefix="ollamesh-test-"))
    try:
        (folder / "PG_VERSION").write_text("18\n")
        lock = folder / "postmaster.pid"
        lock.write_text(f"{named}\n/proc/self/cwd\n")
        postgres.prepare(folder, password="x")
        assert not lock.exists()
    finally:
        shutil.rmtree(folder)


def test_an_interrupted_first_time_is_begun_anew(tmp_path: Path, settings: Settings) -> None:
    half = settings.home / "data" / "postgres.unfinished"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    stores_only.up(settings)
    assert not half.exists()


def test_data_whose_password_is_lost_are_said_so_and_kept(settings: Settings) -> None:
    stores_only.up(settings)
    stack.down(settings, lambda _: None)
    password = SecretFiles(settings.home).path("postgres_password")
    kept = password.rename(password.with_suffix(".kept"))
    with pytest.raises(StackError, match="restore that file, or remove the data to start empty"):
        stores_only.up(settings)
    kept.rename(password)
    stores_only.up(settings)
    assert stack.status(settings).ready is True
