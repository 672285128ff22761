"""The command line against a whole stack: a real model, a real sandbox, and commands as they are printed."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.local.settings import Settings
from tests.fakes.command_line import PROGRAM

ROOT = Path(__file__).parents[2]
WITHIN_S = 100


def ollamesh(mesh: Settings, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, "--home", str(mesh.home), *arguments],
        input=stdin,
        env=mesh.variables(),
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )


def test_the_demo_succeeds_and_what_it_prints_can_be_tried(mesh: Settings) -> None:
    demo = ollamesh(mesh, "demo")
    assert demo.returncode == 0, demo.stdout + demo.stderr
    chat, curl, stub = next_steps(demo.stdout)
    assert shell(f"set +o pipefail; echo 'Say hello.' | {chat} | head -c 1")  # It may have a lot to say.
    assert shell(stub)
    if shutil.which("curl"):
        assert "smollm2:135m" in shell(curl).split()


def next_steps(shown: str) -> list[str]:
    """The commands that the demo ends with, as they stand there."""
    return shown.partition("Try next")[2].partition("\n\n")[2].split("\n\n", 2)


def shell(command: str) -> str:
    """What `command` prints in a bare environment, at the repository's root."""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=ROOT,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        errors="replace",  # The first byte of an answer may be the first of four.
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_embedded_agent_calls_its_tool(mesh: Settings) -> None:
    done = ollamesh(mesh, "run", "--json", "What is 2 + 2?")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "accepted"
    assert {"tool_called", "tool_returned"} <= set(kinds)
    assert kinds[-1] == "finished"
    again = ollamesh(mesh, "run", "--json", "--watch", events[0]["run_id"])
    assert [json.loads(line) for line in again.stdout.splitlines()] == events[1:]
    traced = json.loads(ollamesh(mesh, "trace", events[0]["run_id"], "--wait", "60", "--json").stdout)
    assert "execute_tool run_python" in [span["name"] for span in traced["spans"]]


def test_a_program_is_run(mesh: Settings) -> None:
    done = ollamesh(mesh, "exec", "-", stdin="import sys\nprint(6 * 7)\nsys.exit('sorry')")
    assert (done.returncode, done.stdout) == (1, "42\n")
    assert re.fullmatch(r"sorry\nexit code 1 · \d+\.\d\d s · .*\n", done.stderr)


def test_a_user_is_not_an_admin(mesh: Settings) -> None:
    token = ollamesh(mesh, "token", "--role", "user", "--ttl", "60").stdout.strip()
    done = subprocess.run(
        [*PROGRAM, "--home", str(mesh.home), "models", "rm", "smollm2:135m"],
        env={**mesh.variables(), "OLLAMESH_TOKEN": token},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert "ROLE_REQUIRED" in done.stderr
    request = re.search(r"request ([0-9a-f-]{36})\)", done.stderr)
    assert request is not None, done.stderr
    shown = ollamesh(mesh, "trace", request[1], "--wait", "60")
    assert "InferenceService/DeleteModel" in shown.stdout, "whoever is told of a failure can look into it"


def test_the_stack_is_shown_to_people_and_programs(mesh: Settings) -> None:
    told = json.loads(ollamesh(mesh, "status", "--json").stdout)
    assert told["ready"]
    assert {"postgres", "redis", "auth", "agent", "inference", "sandbox", "edge"} <= {
        part["name"] for part in told["parts"]
    }
    shown = ollamesh(mesh, "status")
    assert shown.returncode == 0
    assert all(part["name"] in shown.stdout for part in told["parts"])
    models = json.loads(ollamesh(mesh, "models", "ls", "--json").stdout)["models"]
    assert "smollm2:135m" in [model["name"] for model in models]
    fleet = json.loads(ollamesh(mesh, "fleet", "--json").stdout)
    assert [instance["state"] for instance in fleet["instances"]] == ["ready"]


def test_starting_twice_is_starting_once(mesh: Settings) -> None:
    before = json.loads(ollamesh(mesh, "status", "--json").stdout)
    again = ollamesh(mesh, "up")
    assert (again.returncode, again.stdout) == (0, f"already up: {before['edge']}\n")
    after = json.loads(ollamesh(mesh, "status", "--json").stdout)
    assert [part["pid"] for part in after["parts"]] == [part["pid"] for part in before["parts"]]


@pytest.mark.parametrize("command", ["status", "down"])
def test_a_stack_that_does_not_run_says_so(tmp_path: Path, command: str) -> None:
    nowhere = Settings(home=tmp_path / "home", cache=tmp_path / "cache")
    done = ollamesh(nowhere, command)
    assert done.returncode == (3 if command == "status" else 0)
    assert "not running" in done.stdout
