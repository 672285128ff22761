"""The supervisor's parent: the one that notices when the supervisor is killed, and ends what it leaves.

Each part dies with the supervisor by the kernel's hand (services/common/launch.py), but a part's own children may not
have asked for that. The warden is their subreaper: whatever loses its parent becomes the warden's child,
and it ends only when it has none left. Killed itself, it takes the supervisor along, which then stops
every part in order and does the warden's work; killed together, the parts still die.

Runs before anything is imported that a process which only waits should not carry.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
# After a kill: PostgreSQL was told by the kernel to shut down, and may do so in peace. After an orderly
# stop every part has ended, and what is left are strays.
LEFT_ALONE_S = 2.0
POLL_S = 0.02


def detach() -> None:
    """Return in a new process, watched by a warden. The caller's own process ends here."""
    if os.fork() != 0:
        os._exit(0)  # So whoever started us need not wait for us.
    adopt_orphans()
    warden = os.getpid()
    supervisor = os.fork()
    if supervisor != 0:
        _watch(supervisor)
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != warden:
        sys.exit(1)


def _watch(supervisor: int) -> NoReturn:
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # Whoever reads our output waits for its end.
        os.dup2(nothing, descriptor)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.kill(supervisor, signal.SIGTERM))
    while (ended := os.wait())[0] != supervisor:
        pass
    for number in (signal.SIGTERM, signal.SIGINT):  # Its number may be another's from now on.
        signal.signal(number, signal.SIG_IGN)
    was_killed = os.WIFSIGNALED(ended[1])
    end_children(patience_s=LEFT_ALONE_S if was_killed else 0.0)
    os._exit(0)


def adopt_orphans() -> None:
    """Whatever below this process loses its parent becomes this process's child."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def end_children(*, patience_s: float) -> None:
    """Return when this process has no child left; those that do not end by themselves are killed."""
    kill_at_s = time.monotonic() + patience_s
    with contextlib.suppress(ChildProcessError):  # There are none left.
        while True:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(POLL_S)
            if time.monotonic() > kill_at_s:
                for child in _children():  # Theirs become ours, so the next round finds them.
                    os.kill(child, signal.SIGKILL)


def _children() -> Iterator[int]:
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = status.read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                yield int(status.parent.name)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
