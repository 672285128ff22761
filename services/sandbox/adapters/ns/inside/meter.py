"""Watches what a jail uses where the kernel does not: memory without a cgroup, processor time in all.

A rlimit counts one process, and a program may have many. The meter reads /proc, in which it sees every
process of its jail: none can hide, because the filter forbids SET_DUMPABLE and no writable folder can
hold an executable. What it cannot promise is exactness: between two looks a program may overshoot.
"""

import os
import resource
from pathlib import Path

PERIOD_S = 0.02

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_FILES = "/work"  # One file system lies under all writable folders.


class Meter:
    def __init__(self, *, memory_bytes: int | None, cpu_s: float | None) -> None:
        self._memory_bytes, self._cpu_s = memory_bytes, cpu_s
        self.peak_memory_bytes = 0

    def breach(self) -> str | None:
        """Look once; "memory" or "cpu" if that limit is passed."""
        if self._memory_bytes is not None:
            used_bytes = _memory_bytes(self._memory_bytes)
            self.peak_memory_bytes = max(self.peak_memory_bytes, used_bytes)
            if used_bytes > self._memory_bytes:
                return "memory"
        if self._cpu_s is not None and _cpu_s() > self._cpu_s:
            return "cpu"
        return None


def _memory_bytes(limit_bytes: int) -> int:
    """Resident memory and files.

    Pages shared by fork are counted once per process while that stays below the limit, and exactly,
    which costs more, from there on.
    """
    files = os.statvfs(_FILES)
    files_bytes = (files.f_blocks - files.f_bfree) * files.f_frsize
    resident_bytes = sum(int(_read(pid, "statm", "0 0").split()[1]) for pid in _others()) * _PAGE_BYTES
    if files_bytes + resident_bytes <= limit_bytes:
        return files_bytes + resident_bytes
    return files_bytes + sum(_proportional_bytes(pid) for pid in _others())


def _proportional_bytes(pid: str) -> int:
    for line in _read(pid, "smaps_rollup", "").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _cpu_s() -> float:
    """Of the living, with the children they waited for, and of those that we reaped."""
    ticks = 0
    for pid in _others():
        # The name, in parentheses, may hold anything: count from behind it.
        fields = _read(pid, "stat", ") " + "0 " * 15).rpartition(")")[2].split()
        ticks += sum(int(field) for field in fields[11:15])
    reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ticks / _TICKS_PER_S + reaped.ru_utime + reaped.ru_stime


def _others() -> list[str]:
    return [path.name for path in Path("/proc").iterdir() if path.name.isdigit() and path.name != "1"]


def _read(pid: str, name: str, gone: str) -> str:
    try:
        return Path("/proc", pid, name).read_text()
    except OSError:
        return gone  # It ended meanwhile.
