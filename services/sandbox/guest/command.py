"""Runs programs by a command: each is a file in the working folder, and a process of its own.

It has no results to tell: its descriptors are the standard streams and no other.
"""

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from .results import Results

WORKING_FOLDER = "/work"
NOT_WRITTEN, NOT_STARTED = 126, 127  # As shells say it.

# Python ignores the first two for itself; and the last is let through when there is a program.
_RESTORED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT)


class Command:
    """Runs the file `file_name` by `command`, a program with arguments that go before it."""

    def __init__(self, command: Sequence[str], file_name: str, *, folder: str = WORKING_FOLDER) -> None:
        self.results = Results()
        self._command, self._file_name, self._folder = command, file_name, folder

    def prepare(self) -> None:
        """Nothing can be done before the program is there."""

    def run(self, program: bytes, started: Callable[[], object] = lambda: None) -> int:
        """Run `program`, which can be interrupted once `started` is called. Return its exit code, or minus the signal."""
        if (pid := os.fork()) == 0:
            try:
                os._exit(self.run_last(program))
            finally:
                os._exit(NOT_STARTED)
        started()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def run_last(self, program: bytes) -> int:
        """Become `program`. Returns only if that is not possible, with the exit code."""
        os.chdir(self._folder)
        try:
            self._write(program)
        except OSError as error:
            return _complain(f"{self._file_name} cannot be written: {error.strerror}", NOT_WRITTEN)
        for number in _RESTORED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        path = self._command[0]
        try:
            os.execve(path, [*self._command, self._file_name], os.environ)  # noqa: S606 -- that is what it is for.
        except OSError as error:
            return _complain(f"{path} cannot be started: {error.strerror}", NOT_STARTED)

    def _write(self, program: bytes) -> None:
        """Afresh: what a program before has left under this name may be a link, or a pipe that nobody reads."""
        with suppress(FileNotFoundError):
            Path(self._file_name).unlink()
        descriptor = os.open(self._file_name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb", buffering=0) as file:  # noqa: PTH123 -- a descriptor.
            rest = memoryview(program)
            while rest:
                rest = rest[file.write(rest) :]


def _complain(what: str, exit_code: int) -> int:
    with suppress(OSError):
        os.write(2, f"{what}\n".encode())
    return exit_code
