"""Sessions of the sandbox, their files, and what there is, on the command line."""

import json
from pathlib import Path

import pytest
from ollamesh.sandbox.v1 import sandbox_service_pb2 as service

from tests.fakes.command_line import Cli, cli, home, mesh
from tests.fakes.fake_sandbox import FakeSandbox
from tests.fakes.scripted_mesh import ScriptedMesh

__all__ = ["cli", "home", "mesh"]


@pytest.fixture
def sandbox(mesh: ScriptedMesh) -> FakeSandbox:
    sandbox = FakeSandbox()
    mesh.answer_by(sandbox)
    return sandbox


@pytest.fixture
def session(cli: Cli, sandbox: FakeSandbox) -> str:
    return cli("sandbox", "sessions", "create").stdout.strip()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (folder := tmp_path / "here").mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_a_session_is_made_and_only_its_id_is_printed(cli: Cli, sandbox: FakeSandbox) -> None:
    options = ["--profile", "python-data", "--memory", "1G", "--processes", "8", "--idle", "60"]
    result = cli("sandbox", "sessions", "create", *options)
    assert (result.exit_code, result.stdout) == (0, "s1\n")
    assert result.stderr.startswith("python-data by fake; unused, it lasts until ")
    session = sandbox.sessions["s1"]
    assert (session.limits.memory_bytes, session.limits.process_count) == (1 << 30, 8)
    assert session.expire_time.seconds - session.create_time.seconds == 60


def test_sessions_are_listed_and_removed(cli: Cli, sandbox: FakeSandbox) -> None:
    for _ in range(3):
        cli("sandbox", "sessions", "create")
    title, *lines = cli("sandbox", "sessions", "ls").stdout.splitlines()
    assert title.split()[:4] == ["SESSION", "PROFILE", "ENGINE", "STATE"]
    assert [line.split()[:4] for line in lines] == [[f"s{n}", "python", "fake", "idle"] for n in (3, 2, 1)]
    found = json.loads(cli("sandbox", "sessions", "ls", "--json").stdout)["sessions"]
    assert [session["session_id"] for session in found] == ["s3", "s2", "s1"]
    assert cli("sandbox", "sessions", "rm", "s1", "s3").stdout == "s1 is gone\ns3 is gone\n"
    assert list(sandbox.sessions) == ["s2"]


def test_a_file_goes_in_and_comes_out(cli: Cli, sandbox: FakeSandbox, session: str, here: Path) -> None:
    (here / "data.csv").write_bytes(b"a,b\n")
    assert cli("sandbox", "files", "put", session, "data.csv").stdout == "data.csv  4 B\n"
    assert cli("sandbox", "files", "put", session, "data.csv", "in/other.csv").exit_code == 0
    assert cli("sandbox", "files", "put", session, "-", "typed", stdin="text").exit_code == 0
    stored = {"data.csv": b"a,b\n", "in/other.csv": b"a,b\n", "typed": b"text"}
    assert sandbox.files[session] == stored
    lines = cli("sandbox", "files", "ls", session).stdout.splitlines()
    assert [line.split() for line in lines[1:]] == [[path, "4", "B"] for path in stored]
    found = json.loads(cli("sandbox", "files", "ls", session, "--json").stdout)["files"]
    assert [file["path"] for file in found] == list(stored)
    assert cli("sandbox", "files", "get", session, "in/other.csv").stdout == "other.csv  4 B\n"
    assert (here / "other.csv").read_bytes() == b"a,b\n"
    (here / "folder").mkdir()
    assert cli("sandbox", "files", "get", session, "typed", "folder").exit_code == 0
    assert (here / "folder" / "typed").read_bytes() == b"text"
    assert cli("sandbox", "files", "get", session, "typed", "-").stdout == "text"
    assert cli("sandbox", "files", "rm", session, "typed", "data.csv").exit_code == 0
    assert list(sandbox.files[session]) == ["in/other.csv"]


@pytest.mark.usefixtures("here")
def test_what_cannot_be_done_with_files_is_said(cli: Cli, session: str) -> None:
    missing = cli("sandbox", "files", "get", session, "absent")
    assert missing.exit_code == 1
    assert "FILE_NOT_FOUND" in missing.stderr
    cli("sandbox", "files", "put", session, "-", "x", stdin="")
    assert cli("sandbox", "files", "get", session, "x", "no/such/folder").stderr == (
        "ollamesh: no/such/folder cannot be written: No such file or directory\n"
    )
    assert cli("sandbox", "files", "put", session, "-", stdin="x").exit_code == 2
    assert cli("sandbox", "files", "put", session, "absent").exit_code == 2
    assert "SESSION_NOT_FOUND" in cli("sandbox", "files", "ls", "absent").stderr


def test_what_is_typed_must_not_be_too_large(cli: Cli, sandbox: FakeSandbox, session: str) -> None:
    sandbox.capabilities.max_file_bytes = 3
    assert cli("sandbox", "files", "put", session, "-", "x", stdin="abc").exit_code == 0
    result = cli("sandbox", "files", "put", session, "-", "x", stdin="abcd")
    assert (result.exit_code, result.stderr) == (1, "ollamesh: a file has 3 B at most\n")


def test_what_there_is_is_shown(cli: Cli, sandbox: FakeSandbox) -> None:
    sandbox.capabilities = service.GetCapabilitiesResponse(
        engines=[
            service.Engine(name="ns", enforced_limits=["memory", "cpu"], weaknesses=["The kernel is shared."])
        ],
        profiles=[
            service.Profile(name="python", runtime="python 3.11", engines=["ns"], keeps_variables=True),
            service.Profile(name="bash", runtime="bash 5.2", packages=["a 1", "b 2"], engines=["ns"]),
        ],
        unavailable_profiles=[{"profile": "node", "engine": "ns", "problem": "there is\x1b no node"}],
        default_limits={"wall": {"seconds": 10}, "memory_bytes": 512 << 20, "process_count": 64},
        max_limits={"wall": {"seconds": 60}, "cpu": {"seconds": 30}, "output_bytes": 1 << 20},
        max_session_count=4,
        max_file_bytes=32 << 20,
    )
    lines = [" ".join(line.split()) for line in cli("sandbox", "capabilities").stdout.splitlines() if line]
    assert lines == [
        "PROFILE RUNTIME ENGINES SESSIONS KEEP",
        "python python 3.11 ns variables and files",
        "bash bash 5.2 ns files",
        "bash: a 1, b 2",
        "node by ns: there is\\x1b no node",
        "ns enforces memory, cpu",
        "The kernel is shared.",
        "limits, if nothing is said: 10 s · 512 MiB of memory · 64 processes",
        "limits, at most: 60 s · 30 s of processor · 1.0 MiB of output",
        "sessions at once: 4 · a file: 32 MiB",
    ]
    found = json.loads(cli("sandbox", "capabilities", "--json").stdout)
    assert found["profiles"][1]["packages"] == ["a 1", "b 2"]
