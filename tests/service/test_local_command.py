"""`python -m deploy.local` as a person runs it: one sentence and status 1, or what was asked for."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from deploy.local.ports import free_ports
from deploy.local.settings import DEFAULT_PORTS, ROOT, port_variable

# Runs a command with a small disk at a folder, which nobody else sees: other tests count what is mounted.
NOT_ALLOWED = 77
ON_A_SMALL_DISK = f"""
import ctypes, os, sys
NEW_NAMESPACE, RECURSIVE_PRIVATE = 0x20000, 0x4000 | 0x40000
folder, filler_bytes, *command = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
if (
    libc.unshare(NEW_NAMESPACE) != 0
    or libc.mount(b"none", b"/", None, RECURSIVE_PRIVATE, None) != 0
    or libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, b"size=1m") != 0
):
    print(os.strerror(ctypes.get_errno()), file=sys.stderr)
    sys.exit({NOT_ALLOWED})
if int(filler_bytes):
    try:
        with open(os.path.join(folder, "filler"), "wb") as filler:
            filler.write(bytes(int(filler_bytes)))
    except OSError:
        pass
    else:
        sys.exit("the disk is not full")
os.execv(command[0], command)
"""


class Command:
    def __init__(self, folder: Path) -> None:
        self.env = {
            **os.environ,
            "OLLAMESH_HOME": str(folder / "home"),
            "OLLAMESH_CACHE": str(folder / "cache"),
            **{port_variable(name): "0" for name in DEFAULT_PORTS},
        }

    def __call__(
        self, *arguments: str, within: Sequence[str] = (), **env: str
    ) -> "subprocess.CompletedProcess[str]":
        argv = [*within, sys.executable, "-m", "deploy.local", *arguments]
        return subprocess.run(
            argv, env=self.env | env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
        )


@pytest.fixture
def ollamesh(tmp_path: Path) -> Command:
    return Command(tmp_path)


def sentence(done: "subprocess.CompletedProcess[str]") -> str:
    """The only line there is."""
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ollamesh: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_status_and_down_of_nothing(ollamesh: Command) -> None:
    done = ollamesh("status")
    assert (done.returncode, done.stdout.count("\n")) == (3, 1)
    assert "not running" in done.stdout
    as_json = ollamesh("status", "--json")
    assert as_json.returncode == 3
    assert json.loads(as_json.stdout)["running"] is False
    down = ollamesh("down")
    assert (down.returncode, down.stdout) == (0, "was not running\n")


def test_a_taken_port_is_named_with_its_holder_and_its_setting(ollamesh: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = sentence(ollamesh("up", OLLAMESH_REDIS_PORT=str(port)))
    assert f"port {port}, which redis needs, is in use by pid {os.getpid()}" in said
    assert "set OLLAMESH_REDIS_PORT to another port, or to 0 for any free one" in said
    assert ollamesh("status").returncode == 3


def test_a_port_wanted_twice_is_named(ollamesh: Command) -> None:
    port = str(free_ports(1)[0])
    said = sentence(ollamesh("up", OLLAMESH_REDIS_PORT=port, OLLAMESH_POSTGRES_PORT=port))
    assert f"port {port} is wanted by OLLAMESH_POSTGRES_PORT and OLLAMESH_REDIS_PORT" in said


def test_wrong_settings_are_named_at_once(ollamesh: Command) -> None:
    said = sentence(ollamesh("up", OLLAMESH_EDGE_PORT="http", OLLAMESH_AUTH_PORT="70000"))
    assert "OLLAMESH_EDGE_PORT" in said
    assert "OLLAMESH_AUTH_PORT" in said


def test_a_home_that_is_no_folder_is_said_so(ollamesh: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = sentence(ollamesh("up", OLLAMESH_HOME=str(tmp_path / "file" / "home")))
    assert (
        "cannot be used (Not a directory); make it writable, or set OLLAMESH_HOME to another folder" in said
    )


@pytest.mark.parametrize("filler_bytes", [0, 2 << 20])
def test_a_full_disk_is_said_so(ollamesh: Command, tmp_path: Path, filler_bytes: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    within = [sys.executable, "-c", ON_A_SMALL_DISK, str(disk), str(filler_bytes)]
    done = ollamesh("up", within=within, OLLAMESH_HOME=str(disk / "home"))
    if done.returncode == NOT_ALLOWED:
        pytest.skip(f"no small disk can be made here: {done.stderr}")
    said = sentence(done)
    assert f"the disk of {disk / 'home'} is full" in said
    assert "free some space there, or set OLLAMESH_HOME to a folder on another disk" in said
    assert not list(disk.iterdir())


def test_doctor_finds_what_is_wrong_and_what_mends_it(ollamesh: Command, tmp_path: Path) -> None:
    secrets = tmp_path / "home" / "secrets"
    secrets.mkdir(parents=True)
    secrets.chmod(0o755)
    wrong = tmp_path / "cache" / "sandbox" / "mine"
    wrong.mkdir(parents=True)
    (wrong / "profile.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        observed = {"OLLAMESH_OBSERVE": "true", "OLLAMESH_PROMETHEUS_BIN": str(tmp_path)}
        collector = {"OLLAMESH_OTLP_TARGET": f"127.0.0.1:{free_ports(1)[0]}"}
        done = ollamesh("doctor", "--json", OLLAMESH_EDGE_PORT=str(port), **observed, **collector)
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 1
    assert checks["secrets"]["mend"] == f"chmod -R u=rwX,go= {secrets}"
    assert checks["profiles"]["finding"].startswith("of mine, profile.json describes no profile: ")
    assert checks["profiles"]["mend"] == f"rm -r {wrong}"
    assert f"port {port}, which edge needs, is in use" in checks["ports"]["finding"]
    assert "no collector answers at 127.0.0.1:" in checks["traces"]["finding"]
    assert checks["observers"]["mend"] == "make prometheus"
    assert all(checks[name]["ok"] for name in ("system", "disk", "PostgreSQL", "Redis", "Envoy", "llama.cpp"))


def test_doctor_on_a_terminal(ollamesh: Command) -> None:
    done = ollamesh("doctor")
    assert all(line.startswith(("ok ", "BAD", "     ")) for line in done.stdout.splitlines())
