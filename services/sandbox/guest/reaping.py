"""What the first process of a jail does with the others."""

import os
import signal
from contextlib import suppress


def kill_others() -> None:
    """At once: none that forks meanwhile escapes."""
    with suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)


def reaped(pid: int) -> int | None:
    """Reap whoever has ended. Return the status of `pid` if it has."""
    status: int | None = None
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
            if ended[0] == pid:
                status = os.waitstatus_to_exitcode(ended[1])
    return status
