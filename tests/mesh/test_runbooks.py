"""Every command that a runbook has somebody run on one machine, run against a stack."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from clients.cli.main import ollamesh
from deploy.local.settings import Settings
from deploy.runbooks.pages import pages

ROOT = Path(__file__).parents[2]
WITHIN_S = 100
# Those that speak no gRPC run in this process: there are dozens, and Python takes its time to start.
QUICK = ("ollamesh metrics ", "ollamesh psql ")
# Pages share commands; each is run once.
LINES = list(
    dict.fromkeys(command.line for page in pages() for command in page.commands if command.run == "local")
)


@pytest.mark.parametrize("line", [line for line in LINES if not line.startswith(QUICK)])
def test_a_command_works(mesh: Settings, line: str) -> None:
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=ROOT,
        env={**os.environ, "PATH": programs, "OLLAMESH_HOME": str(mesh.home)},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr


def test_commands_that_only_look_work(mesh: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    for line in LINES:
        if line.startswith(QUICK):
            told = CliRunner().invoke(
                ollamesh, shlex.split(line)[1:], env={"OLLAMESH_HOME": str(mesh.home)}, catch_exceptions=False
            )
            assert told.exit_code == 0, f"{line}\n{told.output}\n{capfd.readouterr().err}"


def test_psql_changes_nothing_unasked(mesh: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["psql", "-v", "ON_ERROR_STOP=1", "-c", "CREATE TABLE left_behind ()"]
    told = CliRunner().invoke(ollamesh, arguments, env={"OLLAMESH_HOME": str(mesh.home)})
    assert told.exit_code == 1
    assert "read-only transaction" in capfd.readouterr().err
