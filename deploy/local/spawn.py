"""One process of a part: started, followed, and cleaned up after."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from deploy.local.part import Command
from deploy.local.process import Identity, identify, is_alive

NOTE_MAX_CHARACTERS = 200


@dataclass(slots=True)
class Spawned:
    command: Command
    process: subprocess.Popen[bytes]
    identity: Identity | None
    log: BinaryIO
    killed: bool = False
    trouble: str = ""  # What the last probe said.

    def interrupt(self, number: int) -> None:
        self._signal(number, group=False)

    def kill(self) -> None:
        self.killed = True
        self._signal(signal.SIGKILL, group=True)

    def _signal(self, number: int, *, group: bool) -> None:
        # Not Popen's way, which would reap the process behind the back of the thread in `wait`.
        if self.identity is not None and is_alive(self.identity):
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(self.identity.pid, number)

    def wait(self, note: Callable[[str], None]) -> int:
        """Block until the process has ended and nobody of its group is left. Return its exit status."""
        crashed = False
        with self.log:
            for line in self.process.stderr or ():
                self.log.write(line)
                self.log.flush()
                crashed = crashed or line.startswith(b"Traceback")
                if not crashed:  # The rest is for the log.
                    note(line.decode(errors="replace").strip()[:NOTE_MAX_CHARACTERS])
        # Until it is reaped, its number cannot be another group's.
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        if (output := self.command.output) is not None:
            _unfinished(output).replace(output) if code == 0 else _unfinished(output).unlink()
        return code


def spawn(command: Command, log: BinaryIO, *, follow: bool) -> Spawned:
    """Start it in a session of its own. `follow`: its stderr also goes to `wait`'s `note`. Raises OSError."""
    with contextlib.ExitStack() as files:
        stdout = log
        if command.output is not None:
            stdout = files.enter_context(_unfinished(command.output).open("wb"))
        process = subprocess.Popen(
            command.guard.command(command.argv),
            env=command.env,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE if follow else log,
            start_new_session=True,
        )
    return Spawned(command, process, identify(process.pid), log)


def _unfinished(output: Path) -> Path:
    return output.with_name(f"{output.name}.unfinished")
