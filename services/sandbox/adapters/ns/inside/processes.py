"""The other processes of a jail, as its init sees them: all of them, because none can hide (see `meter`)."""

import os
import resource
import time
from contextlib import suppress
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s() -> float:
    """Of all processes that we see but ourselves, with the children they waited for, and of those that we reaped."""
    reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
    return reaped.ru_utime + reaped.ru_stime + sum(_cpu_s(pid) for pid in others())


def reap_all() -> None:
    """Wait until nobody is left."""
    with suppress(ChildProcessError):
        while True:
            os.wait()


def others() -> list[int]:
    """All that there are but the init, dead ones that nobody has waited for among them."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and path.name != "1"]


def state(pid: int, thread: int | None = None) -> str:
    """As /proc says it; X if it is gone."""
    return _fields(pid if thread is None else f"{pid}/task/{thread}", "X")[0]


def threads(pid: int) -> list[int]:
    try:
        return [int(path.name) for path in Path("/proc", str(pid), "task").iterdir()]
    except OSError:
        return []


def _cpu_s(pid: int) -> float:
    """Exact for itself, to a tick for its children."""
    ticks = sum(map(int, _fields(pid, "X " + "0 " * 15)[13:15]))
    try:
        own_s = time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3)
    except OSError:  # It ended meanwhile.
        own_s = 0.0
    return own_s + ticks / _TICKS_PER_S


def _fields(path: int | str, gone: str) -> list[str]:
    """Of its stat, from the state on."""
    try:
        text = Path("/proc", str(path), "stat").read_text(errors="replace")
    except OSError:
        return gone.split()
    return text.rpartition(")")[2].split()  # The name, in parentheses, may hold any bytes.
