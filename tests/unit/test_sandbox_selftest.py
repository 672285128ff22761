"""The self-test finds what is wrong: a test of an engine's walls that always passes would be none."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

from services.sandbox.adapters.ns import selftest
from services.sandbox.core.lifecycle import Ending
from services.sandbox.core.limits import LimitKind, Limits
from services.sandbox.ports import Program, Stream, Write
from tests.fakes.fake_jails import FakeJail

OUTSIDE = {"host_file": str(Path(__file__)), "environment": ["PATH"]}


def test_without_walls_the_hostile_acts_succeed() -> None:
    """What an ordinary process can do, they do. (As root they would do more: it is not for a test to.)"""
    imports = "import ctypes, errno, fcntl, functools, json, os, pathlib, resource, socket"  # While the library can still be read.
    drop = "os.geteuid() or os.setuid(65534)"
    run = subprocess.run(
        [sys.executable, "-c", f"{imports}\n{drop}\n{selftest.WALLS}"],
        check=False,
        input=json.dumps(OUTSIDE),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stderr == ""
    assert {
        "opens a network socket",
        "opens a netlink socket",
        "reads a file of the host",
        "traces",
        "may gain privileges",
        "has no filter",
        "sees the environment",
        "sees other processes",
    } <= set(run.stdout.splitlines())


class Jail(FakeJail):
    """Answers each program as it is told to."""

    def __init__(self, answers: "Answers") -> None:
        super().__init__()
        self._answers = answers
        self._ending: Ending | None = None

    def begin(self, program: Program, write: Write) -> None:
        code = program.code.decode()
        output, status, breach = self._answers[code]
        write(Stream.STDOUT, output.encode())
        self._ending = Ending(status, breach, 0.0, 0)

    async def ended(self) -> Ending:
        assert self._ending is not None
        return self._ending


Answers = dict[str, tuple[str, int | None, LimitKind | None]]

SOUND: Answers = {
    selftest.WALLS: ("", 0, None),
    selftest.FORKS: ("8\n", 0, None),
    selftest.MEMORY: ("", -9, LimitKind.MEMORY),
}


def breaches(**changed: tuple[str, int | None, LimitKind | None]) -> list[str]:
    answers = SOUND | {getattr(selftest, name): answer for name, answer in changed.items()}

    async def build(limits: Limits) -> Jail:
        assert limits == selftest.LIMITS
        return Jail(answers)

    return asyncio.run(selftest.breaches(build, host_file=os.devnull, environment=[]))


def test_a_sound_engine_passes() -> None:
    assert breaches() == []


def test_what_was_not_refused_is_named() -> None:
    assert breaches(WALLS=("mounts\nis root\n", 0, None)) == ["mounts", "is root"]


def test_an_engine_that_runs_nothing_fails() -> None:
    assert breaches(WALLS=("", 1, None)) == ["does not run a program"]
    assert breaches(WALLS=("", None, None)) == ["does not run a program"]


def test_limits_that_do_not_hold_are_named() -> None:
    assert breaches(FORKS=("1001", 0, None)) == ["has no limit on processes"]
    assert breaches(FORKS=("", 1, None)) == ["has no limit on processes"]
    assert breaches(MEMORY=("", 1, None)) == ["has no limit on memory"]
    assert breaches(MEMORY=("", -9, None)) == ["has no limit on memory"]
