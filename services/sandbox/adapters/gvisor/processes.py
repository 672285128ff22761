"""The host's processes of one jail: runsc, its helper, gVisor's kernel with its stubs, and its file server."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

COMPLAINT_BYTES_MAX = 4096
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Processes:
    """`gone` is called once all that is known has ended, for whatever reason.

    Each process asks the kernel to be killed with its parent, so that ending the first would do; that takes a
    moment, which is why the others are known, too.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", gone: Callable[[], None]) -> None:
        self._process, self._gone = process, gone
        self._living: dict[int, int] = {}  # pidfd to pid.
        self.complaint = ""
        self._know(process.pid)

    @property
    def pids(self) -> frozenset[int]:
        return frozenset(self._living.values())

    def know_all(self) -> None:
        """Find the processes that have been started by now, unless the first has ended: its pid may be another's."""
        if self._process.returncode is not None:
            return
        for pid in _below(self._process.pid):
            if pid not in self.pids:
                with suppress(ProcessLookupError):
                    self._know(pid)

    def private_bytes(self) -> int:
        """Memory that is theirs alone. The program's own is not: gVisor keeps that in a file in memory."""
        return sum(map(_private_bytes, self._living.values()))

    def cpu_s(self) -> float:
        """What those that are known have used since they began, and those that they waited for."""
        return sum(map(_cpu_s, self._living.values()))

    def kill(self) -> None:
        """End them at once. Idempotent."""
        for pidfd in reversed(self._living):
            with suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def _know(self, pid: int) -> None:
        pidfd = os.pidfd_open(pid)
        self._living[pidfd] = pid
        asyncio.get_running_loop().add_reader(pidfd, self._end, pidfd)

    def _end(self, pidfd: int) -> None:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        if self._living.pop(pidfd) == self._process.pid:
            self._process.wait()
            self.complaint = self._read_complaint()
            self.kill()
        if not self._living:
            self._gone()

    def _read_complaint(self) -> str:
        """What runsc or the interpreter said last. Not for callers."""
        assert self._process.stderr is not None
        os.set_blocking(self._process.stderr.fileno(), False)
        with self._process.stderr as stderr, suppress(BlockingIOError):
            return (stderr.read(COMPLAINT_BYTES_MAX) or b"").decode("utf-8", "replace")
        return ""


def _private_bytes(pid: int) -> int:
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0  # It ended meanwhile.
    return (int(resident) - int(shared)) * _PAGE_BYTES


def _cpu_s(pid: int) -> float:
    try:
        # The name, in parentheses, may hold anything: count from behind it.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0  # It ended meanwhile.
    return sum(map(int, fields[11:15])) / _TICKS_PER_S


def _below(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text().split()):
                yield child
                yield from _below(child)
