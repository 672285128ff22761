"""Programs on the command line: what is asked for, what is shown, what is saved, and the exit code."""

import base64
from pathlib import Path
from typing import Any

import pytest
from ollamesh.sandbox.v1 import execution_pb2 as pb
from ollamesh.sandbox.v1.sandbox_service_pb2 import ExecuteResponse

from services.sandbox.errors import QueueFull
from tests.fakes.command_line import Cli, cli, home, json_lines, mesh, streaming
from tests.fakes.fake_sandbox import Execution, FakeSandbox
from tests.fakes.scripted_mesh import ScriptedMesh

__all__ = ["cli", "home", "mesh"]

PNG, SVG = b"\x89PNG\r\n", b"<svg/>"


@pytest.fixture
def sandbox(mesh: ScriptedMesh) -> FakeSandbox:
    sandbox = FakeSandbox()
    mesh.answer_by(sandbox)
    return sandbox


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a program in it."""
    (folder := tmp_path / "here").mkdir()
    (folder / "program.py").write_text("print('café')")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.usefixtures("here")
def test_a_program_runs_and_its_end_is_told(cli: Cli, sandbox: FakeSandbox, mesh: ScriptedMesh) -> None:
    exited = pb.ExecutionEvent.Exited(outcome=pb.OUTCOME_OK)
    exited.usage.wall.FromMilliseconds(120)
    exited.usage.cpu.FromMilliseconds(50)
    exited.usage.peak_memory_bytes = 23 << 20
    sandbox.script = [Execution(stdout=[b"caf\xc3", b"\xa9\n\x1b[0m"], stderr=[b"warned\n"], exited=exited)]
    result = cli("exec", "program.py", "--stdin", "-", "--timeout", "2", stdin="input")
    assert (result.exit_code, result.stdout_bytes) == (0, b"caf\xc3\xa9\n\x1b[0m")
    assert result.stderr == "warned\nexit code 0 · 0.12 s · 0.05 s of processor · 23 MiB\n"
    (spec,) = sandbox.specs
    assert (spec.code, spec.stdin, spec.stdin_open) == ("print('café')", b"input", False)
    assert spec.limits == pb.Limits(wall={"seconds": 2})
    assert mesh.remaining_s["Execute"] < 123


def test_all_that_may_be_asked_for_is(cli: Cli, sandbox: FakeSandbox) -> None:
    session = cli("sandbox", "sessions", "create").stdout.strip()
    asked = ["--profile", "bash", "--engine", "gvisor", "--cpu", "1.5", "--memory", "64M", "--processes", "3"]
    assert cli("exec", "-", "--session", session, *asked, stdin="x").exit_code == 0
    limits = pb.Limits(cpu={"seconds": 1, "nanos": 500_000_000}, memory_bytes=64 << 20, process_count=3)
    expected = pb.ExecutionSpec(code="x", profile="bash", engine="gvisor", session_id=session, limits=limits)
    assert sandbox.specs == [expected]


def test_a_program_that_may_run_for_long_is_waited_for(
    cli: Cli, sandbox: FakeSandbox, mesh: ScriptedMesh
) -> None:
    assert cli("exec", "-", "--timeout", "3000", stdin="x").exit_code == 0
    assert mesh.remaining_s["Execute"] > 3000


@pytest.mark.parametrize("value", ["12X", "-1", "0", "1.5G", ""])
def test_a_size_that_is_none_is_refused(cli: Cli, value: str) -> None:
    result = cli("exec", "-", "--memory", value, stdin="x")
    assert result.exit_code == 2
    assert "sizes look like" in result.stderr


def test_standard_input_is_not_read_twice(cli: Cli) -> None:
    assert cli("exec", "-", "--stdin", "-", stdin="x").exit_code == 2


# ---- How it ended ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exited", "said", "own_code"),
    [
        (pb.ExecutionEvent.Exited(outcome=pb.OUTCOME_ERROR, exit_code=3), "exit code 3 · ", 3),
        (
            pb.ExecutionEvent.Exited(outcome=pb.OUTCOME_TIMEOUT, message="it took too long"),
            "it took too long · ",
            124,
        ),
        (pb.ExecutionEvent.Exited(outcome=pb.OUTCOME_OOM), "oom · ", 137),
        (pb.ExecutionEvent.Exited(outcome=pb.OUTCOME_OUTPUT_LIMIT), "output_limit · ", 137),
        (pb.ExecutionEvent.Exited(outcome=pb.OUTCOME_SIGNALLED, signal=11), "ended by signal 11 · ", 139),
        (pb.ExecutionEvent.Exited(outcome=pb.OUTCOME_CANCELLED), "cancelled · ", 130),
    ],
    ids=lambda each: pb.Outcome.Name(each.outcome) if isinstance(each, pb.ExecutionEvent.Exited) else "",
)
def test_a_failed_program_fails_the_command(
    cli: Cli, sandbox: FakeSandbox, exited: pb.ExecutionEvent.Exited, said: str, own_code: int
) -> None:
    sandbox.otherwise = Execution(exited=exited)
    result = cli("exec", "-", stdin="raise SystemExit(3)")
    assert result.exit_code == 1
    assert result.stderr.startswith(said)
    assert cli("exec", "-", "--exit-code", stdin="x").exit_code == own_code


def test_a_program_that_was_not_run_has_no_exit_code_of_its_own(cli: Cli, sandbox: FakeSandbox) -> None:
    sandbox.otherwise = Execution(failure=QueueFull(waiting_max=3))
    plain, own = cli("exec", "-", stdin="x"), cli("exec", "-", "--exit-code", stdin="x")
    assert (plain.exit_code, own.exit_code) == (1, 125)
    assert "QUEUE_FULL" in plain.stderr
    assert plain.stderr == own.stderr
    sandbox.otherwise = Execution()
    assert cli("exec", "-", "--exit-code", stdin="x").exit_code == 0


def test_what_it_ran_into_is_told(cli: Cli, sandbox: FakeSandbox) -> None:
    exited = pb.ExecutionEvent.Exited(
        outcome=pb.OUTCOME_OK,
        stdout_truncated=True,
        results_truncated=True,
        limits_reached=[pb.LIMIT_KIND_PROCESSES, pb.LIMIT_KIND_FILES],
        session_restarted=True,
        session_files_lost=True,
    )
    exited.usage.queue.FromMilliseconds(1250)
    sandbox.script = [Execution(exited=exited)]
    lost, line = cli("exec", "-", stdin="x").stderr.splitlines()
    assert lost == "ollamesh: the session was restarted; its variables and files are gone"
    assert line == (
        "exit code 0 · 0.00 s · 0.00 s of processor · waited 1.25 s · limits reached: processes, files"
        " · output cut off · results left out"
    )


def test_what_a_session_lost_is_told(cli: Cli, sandbox: FakeSandbox) -> None:
    ended = pb.ExecutionEvent.Exited(outcome=pb.OUTCOME_OOM, session_ended=True)
    crashed = pb.ExecutionEvent.Exited(outcome=pb.OUTCOME_SIGNALLED, session_restarted=True)
    sandbox.script = [Execution(session_restarted=True), Execution(exited=crashed), Execution(exited=ended)]
    assert [cli("exec", "-", stdin="x").stderr.splitlines()[0] for _ in range(3)] == [
        "ollamesh: the session was restarted; its variables and files are gone",
        "ollamesh: the session was restarted; its variables are gone",
        "ollamesh: the session has ended",
    ]


# ---- Results ---------------------------------------------------------------------------------------


def test_a_value_is_printed_on_a_line_of_its_own(cli: Cli, sandbox: FakeSandbox) -> None:
    script = Execution(
        stdout=[b"no newline"], results=[{"text/plain": b"4", "text/html": b"<b>4</b>"}, {"text/html": b"x"}]
    )
    sandbox.otherwise = script
    assert cli("exec", "-", stdin="2 + 2").stdout == "no newline\n4\n"
    assert cli("exec", "-", "--no-results", stdin="2 + 2").stdout == "no newline"


def test_images_are_saved_under_names_that_are_free(cli: Cli, sandbox: FakeSandbox, here: Path) -> None:
    (here / "program-1.png").write_bytes(b"mine")
    (here / "program-2.png").symlink_to(here / "elsewhere")
    figure = {"text/plain": b"<Figure>", "image/png": PNG, "image/svg+xml": SVG}
    sandbox.script = [Execution(results=[figure, {"image/svg+xml": SVG}, {"image/unheard-of": b"x"}])]
    result = cli("exec", "program.py")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.splitlines()[:2] == ["saved program-3.png", "saved program-1.svg"]
    assert (here / "program-1.png").read_bytes() == b"mine"
    assert not (here / "elsewhere").exists()
    assert (here / "program-3.png").read_bytes() == PNG
    assert (here / "program-1.svg").read_bytes() == SVG


def test_images_are_saved_where_they_are_wanted(cli: Cli, sandbox: FakeSandbox, here: Path) -> None:
    sandbox.otherwise = Execution(results=[{"text/plain": b"<Figure>", "image/png": PNG}])
    (folder := here / "plots").mkdir()
    assert cli("exec", "-", "--save-images", "plots", stdin="x").exit_code == 0
    assert (folder / "image-1.png").read_bytes() == PNG
    before = sorted(here.iterdir())
    result = cli("exec", "-", "--no-images", stdin="x")
    assert result.stdout == "<Figure>\n", "what is not saved is described"
    assert cli("exec", "-", "--json", stdin="x").exit_code == 0
    assert sorted(here.iterdir()) == before


def test_an_image_that_cannot_be_saved_fails_nothing(cli: Cli, sandbox: FakeSandbox, here: Path) -> None:
    sandbox.otherwise = Execution(results=[{"text/plain": b"<Figure>", "image/png": PNG}])
    here.joinpath("program.py").rename(here / ("x" * 250 + ".py"))
    result = cli("exec", "x" * 250 + ".py")
    assert (result.exit_code, result.stdout) == (0, "<Figure>\n")
    assert "an image was not saved" in result.stderr


# ---- For scripts -----------------------------------------------------------------------------------


def test_an_execution_is_told_to_a_script(cli: Cli, sandbox: FakeSandbox) -> None:
    forms = {"text/html": "<b>é</b>".encode(), "image/png": PNG}
    sandbox.script = [Execution(stdout=[b"caf\xc3", b"\xa9\n\x1b[0m"], stderr=[b"!"], results=[forms])]
    lines = json_lines(cli("exec", "-", "--json", stdin="x"))
    kinds = ["started", "stdout", "stdout", "stderr", "result", "exited"]
    assert [line["event"] for line in lines] == kinds
    assert "".join(line["data"] for line in lines[1:3]) == "café\n\x1b[0m"
    assert lines[4]["data"] == {"text/html": "<b>é</b>", "image/png": base64.b64encode(PNG).decode()}
    assert (lines[-1]["outcome"], lines[-1]["wall_s"], lines[-1]["limits_reached"]) == ("ok", 0.0, [])


def test_what_is_no_text_is_no_program(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    result = cli("exec", str(tmp_path / "binary"))
    assert result.exit_code == 1
    assert "not UTF-8" in result.stderr


def test_an_end_that_is_newer_than_the_client_is_a_failure(cli: Cli, mesh: ScriptedMesh) -> None:
    response: Any = {"event": {"exited": {"outcome": 99, "message": "by\x1bmoonlight"}}}
    mesh.streams["Execute"] = streaming(ExecuteResponse(**response))
    result = cli("exec", "-", stdin="x")
    assert result.exit_code == 1
    assert result.stderr.startswith("by\\x1bmoonlight · ")
