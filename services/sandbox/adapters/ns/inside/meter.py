"""Watches what a jail uses where the kernel does not: memory without a cgroup, processor time in all.

A rlimit counts one process, and a program may have many. The meter reads /proc, in which it sees every
process of its jail: none can hide, because the filter forbids SET_DUMPABLE and no writable folder can
hold an executable. What it cannot promise is exactness: between two looks a program may overshoot, and of what the
kernel itself holds for a program it sees the two that grow without bound: page tables and the buffers of sockets.
"""

import os
from pathlib import Path

from . import processes

PERIOD_S = 0.02

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_FILES = "/work"  # One file system lies under all writable folders.
_SOCKETS = "/proc/1/net/sockstat"
# What a socket may hold unread: the largest buffer that a program may ask for (net.core.wmem_max, twice). How much it does
# hold, the kernel does not tell; few programs have many.
_SOCKET_BYTES = 2 * 212_992
# One page of a table leads to 512. Mapped memory that could have less than this in tables need not be asked about it.
_TABLE_SHARE = 512
_TABLES_BYTES_MIN = 4 << 20


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
        if self._cpu_s is not None and processes.cpu_s() > self._cpu_s:
            return "cpu"
        return None


def files_full() -> bool:
    """Whether no byte, or no file, more can be written."""
    files = os.statvfs(_FILES)
    return files.f_bfree == 0 or files.f_ffree == 0


def _memory_bytes(limit_bytes: int) -> int:
    """Resident memory, page tables, files, and what sockets may hold.

    Pages shared by fork are counted once per process while that stays below the limit, and exactly,
    which costs more, from there on.
    """
    files = os.statvfs(_FILES)
    other_bytes = (files.f_blocks - files.f_bfree) * files.f_frsize + _socket_count() * _SOCKET_BYTES
    resident_bytes = 0
    for pid in processes.others():
        mapped_count, resident_count = (int(word) for word in _read(pid, "statm", "0 0").split()[:2])
        resident_bytes += resident_count * _PAGE_BYTES
        if mapped_count * _PAGE_BYTES // _TABLE_SHARE >= _TABLES_BYTES_MIN:
            other_bytes += _field_bytes(pid, "status", "VmPTE:")
    if other_bytes + resident_bytes <= limit_bytes:
        return other_bytes + resident_bytes
    return other_bytes + sum(_field_bytes(pid, "smaps_rollup", "Pss:") for pid in processes.others())


def _field_bytes(pid: int, name: str, field: str) -> int:
    for line in _read(pid, name, "").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def _socket_count() -> int:
    """Of the whole jail: it has a network of its own, in which nothing but its sockets is."""
    with open(_SOCKETS) as file:  # noqa: PTH123 -- as quick as it can be: it is read again and again.
        return int(file.readline().split()[2])


def _read(pid: int, name: str, gone: str) -> str:
    try:
        return Path("/proc", str(pid), name).read_text(
            errors="replace"
        )  # A process names itself, with any bytes.
    except OSError:
        return gone  # It ended meanwhile.
