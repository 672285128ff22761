"""Parts die, and come back; the supervisor dies, and nothing of the stack outlives it."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from deploy.local import stack
from deploy.local.settings import Settings
from tests.stack import running_stack

PARTS = ("postgres", "redis", "runtime", "traces", "auth", "inference", "sandbox", "agent", "edge")
BACK_WITHIN_S = 60.0
GONE_WITHIN_S = 15.0


@pytest.fixture(scope="module")
def fragile() -> Iterator[Settings]:
    """A stack to break: not the one that other tests use."""
    with running_stack() as settings:
        yield settings


def until(condition: Callable[[], bool], within_s: float) -> bool:
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s:
        if condition():
            return True
        time.sleep(0.1)
    return condition()


def pid_of(settings: Settings, part: str) -> int | None:
    return next(found.pid for found in stack.status(settings).parts if found.name == part)


def processes_of(home: Path) -> list[psutil.Process]:
    """Everything that runs for the stack: the supervisor's family, and whoever was told of its home."""
    found = []
    for process in psutil.process_iter():
        try:
            told = [*process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue
        if any(str(home) in text for text in told):
            found.append(process)
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", PARTS)
def test_a_killed_part_comes_back(fragile: Settings, part: str) -> None:
    before = pid_of(fragile, part)
    assert before is not None
    os.kill(before, signal.SIGKILL)
    assert until(lambda: pid_of(fragile, part) not in {None, before}, BACK_WITHIN_S)
    assert until(lambda: stack.status(fragile).ready, BACK_WITHIN_S), stack.status(fragile)


@pytest.mark.timeout(300)
def test_nothing_outlives_a_killed_supervisor_and_the_stack_starts_again() -> None:
    with running_stack() as settings:
        supervisor = stack.status(settings).supervisor_pid
        assert supervisor is not None
        family = [*psutil.Process(supervisor).children(recursive=True), *processes_of(settings.home)]
        assert len(family) > len(PARTS)
        os.kill(supervisor, signal.SIGKILL)
        _, alive = psutil.wait_procs(family, timeout=GONE_WITHIN_S)
        assert not alive
        assert not stack.status(settings).running
        stack.up(settings, print)  # What the dead one left is no hindrance.
        assert stack.status(settings).ready
        assert stack.down(settings, print)
        assert not processes_of(settings.home)
