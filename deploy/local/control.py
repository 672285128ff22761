"""Starts and stops a supervisor from outside, for any set of parts."""

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from pathlib import Path

from deploy.local import board
from deploy.local.errors import (
    HeldError,
    NotReadyInTimeError,
    StackBrokenError,
    StackError,
    SupervisorLostError,
)
from deploy.local.messages import Busy, Failed, Progress, Ready, decode
from deploy.local.process import Identity, end_all, send, wait_for
from deploy.local.settings import ROOT

# The longest chain of parts that may each take their time to stop, with some to spare.
STOP_WITHIN_S = 120.0
# As long as the slowest preparation may take (core/graph.py).
FOLLOW_WITHIN_S = 1800.0
# How often somebody else's supervisor may come or go under our eyes, a second apart.
ATTEMPTS_MAX = 120
POLL_S = 0.1
PATIENCE_S = 1.0  # Whatever takes longer is explained.

Say = Callable[[str], None]


class Outcome(Enum):
    STARTED = auto()
    WAS_UP = auto()


def up(home: Path, argv: Sequence[str], env: Mapping[str, str], say: Say) -> Outcome:
    """Return when every part is ready. `argv` starts the supervisor if there is none. Raises StackError."""
    for _ in range(ATTEMPTS_MAX):
        if board.of_running(home) is None:
            if _start(home, argv, env, say):
                return Outcome.STARTED
        elif _follow(home, say):
            return Outcome.WAS_UP
        say(f"waiting for another supervisor of {home}, which is just coming or going")
        time.sleep(PATIENCE_S)
    raise HeldError(home)


def down(home: Path, say: Say) -> bool:
    """Return when no process of the stack is left; whether there was a supervisor."""
    running = board.of_running(home)
    if running is None:
        if (stale := board.read(home)) is not None:
            end_all(stale.processes, within_s=PATIENCE_S)
            board.remove(home)
        return False
    send(running.supervisor, signal.SIGTERM)
    _await_end(home, running, say)
    return True


def _start(home: Path, argv: Sequence[str], env: Mapping[str, str], say: Say) -> bool:
    """Start a supervisor and show its progress; whether it became ready rather than finding another."""
    began_s = time.monotonic()
    with subprocess.Popen(
        argv, env=env, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
    ) as starter:
        try:
            for line in starter.stdout or ():
                match decode(line):
                    case Progress(part, text):
                        say(f"{time.monotonic() - began_s:6.1f} s  {part:<10} {text}")
                    case Ready():
                        return True
                    case Busy():
                        return False
                    case Failed(sentence, warden):
                        end_all([warden] if warden else [], within_s=PATIENCE_S)
                        raise StackError(sentence)
        except KeyboardInterrupt:
            say("interrupted: stopping what was started")
            down(home, say)
            raise
    raise SupervisorLostError(home / "logs" / "supervisor.log")


def _follow(home: Path, say: Say) -> bool:
    """Wait until the running stack is ready. False if it goes away instead."""
    began_s, told = time.monotonic(), ""
    while (running := board.of_running(home)) is not None:
        if running.ready:
            return True
        going = any(part.state in {"stopping", "stopped"} for part in running.parts)
        if failed := next((part for part in running.parts if part.state == "failed" and not going), None):
            raise StackBrokenError(failed.name, failed.reason, failed.log)
        waited_s = time.monotonic() - began_s
        if waited_s > FOLLOW_WITHIN_S:
            raise NotReadyInTimeError(waited_s)
        waiting_for = ", ".join(part.name for part in running.parts if part.state not in {"ready", "done"})
        if waited_s > PATIENCE_S and waiting_for != told:
            say(f"{waited_s:6.1f} s  waiting for {waiting_for}")
            told = waiting_for
        time.sleep(POLL_S)
    return False


def _await_end(home: Path, running: board.Board, say: Say) -> None:
    began_s, told = time.monotonic(), ""
    ends = [running.supervisor, *([running.warden] if running.warden else [])]
    while wait_for(ends, within_s=POLL_S):
        waited_s, now = time.monotonic() - began_s, board.read(home)
        stopping = ", ".join(part.name for part in now.parts if part.state == "stopping") if now else ""
        if waited_s > PATIENCE_S and stopping != told:
            say(f"{waited_s:6.1f} s  stopping {stopping}")
            told = stopping
        if waited_s > STOP_WITHIN_S:
            send(running.supervisor, signal.SIGKILL)  # The kernel and the warden end the rest.
            break
    _end_rest(home, running)


def _end_rest(home: Path, running: board.Board) -> None:
    left: list[Identity] = [*running.processes, *((now.processes) if (now := board.read(home)) else [])]
    end_all(left, within_s=PATIENCE_S)
    board.remove(home)
