"""Starts a program that cannot outlive the process that started it.

The kernel keeps the promise (PR_SET_PDEATHSIG), so it holds when the parent is killed with SIGKILL.
`preexec_fn` could ask for it too, but runs Python between fork and exec, where a lock that another thread
held stays locked for ever. So this file runs as a small program of its own and becomes the wanted one:

    python -I -S launch.py '{"parent": 4711, ...}' PROGRAM ARGUMENT...

It imports nothing of ours, because `-I -S` starts it in a third of the time.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
NOBODY = 65534  # The overflow uid: owns nothing on a sane machine.
CANNOT_START = 126  # As a shell would answer.


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """How a program is started and what ends it."""

    orphan_signal: int = signal.SIGKILL  # Sent by the kernel when the parent is gone.
    uid: int | None = None  # Also the gid; None keeps the caller's.
    folder: str | None = None  # Entered before the uid changes, so its parents may be closed to that uid.
    stdin: str | None = None  # Opened before the uid changes; None is /dev/null.
    keeps_stdin: bool = False  # What it was started with is its standard input.

    def command(self, argv: Sequence[str]) -> tuple[str, ...]:
        """`argv` guarded by the calling process. The thread that starts it must not end before it."""
        request = json.dumps({"parent": os.getpid(), **asdict(self)})
        return (sys.executable, "-I", "-S", str(Path(__file__)), request, *argv)


def server_uid() -> int | None:
    """The uid for servers that refuse root, or should not have it; None if we are not root."""
    return NOBODY if os.geteuid() == 0 else None


def _die_with(parent: int, orphan_signal: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, orphan_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot tie this program to its supervisor")
    if os.getppid() != parent:  # It died before the kernel was asked.
        sys.exit(CANNOT_START)


def _become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def main(request: str, argv: list[str]) -> None:
    parent: int = (wanted := json.loads(request)).pop("parent")
    guard = Guard(**wanted)
    try:
        _die_with(parent, guard.orphan_signal)
        if not guard.keeps_stdin:
            os.dup2(os.open(guard.stdin or os.devnull, os.O_RDONLY), 0)
        if guard.folder:
            os.chdir(guard.folder)
        program: str | int = argv[0]
        if guard.uid is not None:
            program = os.open(argv[0], os.O_RDONLY)  # The new uid may not be able to walk to it.
            _become(guard.uid)
            _die_with(parent, guard.orphan_signal)  # A change of uid forgets the first request.
        os.execve(program, argv, os.environ)  # noqa: S606 - There is no shell to want.
    except OSError as error:
        sys.exit(f"cannot start {argv[0]}: {error.strerror or error}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
