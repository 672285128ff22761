"""What a program uses, as gVisor's kernel counts it, and which limit that passes.

The kernel keeps these accounts by control group, exactly and whatever the program does, but enforces none of them
reliably (the limit on tasks is looked up at one hierarchy that the kernel picks at random). So the init looks, every
PERIOD_S, and ends what is too large. Processor time is the service's to measure: gVisor counts whoever could run as
running, so that four busy processes on one processor use four. Between two looks a program may overshoot; the host's control group, where there
is one, is the wall behind this one.
"""

import os

from . import kernel

PERIOD_S = 0.02

_PLACE = "/run"
_ACCOUNTS = {"pids": "pids.current", "memory": "memory.usage_in_bytes"}


class Meter:
    """Of one program. It is in the accounts from `enter` on."""

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self._limits: dict[str, int] = {}
        self._entries: list[int] = []
        self._process_max = -1
        self.peak_memory_bytes = 0
        kernel.mount("tmpfs", _PLACE, kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
        for controller, file in _ACCOUNTS.items():
            self._open(controller, file)
        kernel.detach(_PLACE)

    def _open(self, controller: str, file: str) -> None:
        """Open an account of its own, so that its folder need be nowhere to be seen."""
        place = f"{_PLACE}/{controller}"
        os.mkdir(place)  # noqa: PTH102 -- as plain as its neighbours.
        kernel.mount("cgroup", place, 0, options=controller)
        os.mkdir(f"{place}/program")  # noqa: PTH102
        # Memory is counted for all of the jail, which is what is wanted: files belong to no process.
        self._files[controller] = os.open(
            f"{place}/{'' if controller == 'memory' else 'program/'}{file}", os.O_RDONLY
        )
        self._entries.append(os.open(f"{place}/program/cgroup.procs", os.O_WRONLY))
        if controller == "pids":
            self._process_max = os.open(f"{place}/program/pids.max", os.O_WRONLY)
        kernel.detach(place)

    def enter(self, pid: int) -> None:
        for entry in self._entries:
            os.pwrite(entry, str(pid).encode(), 0)

    def limit(self, *, process_count: int, memory_bytes: int) -> None:
        os.pwrite(self._process_max, str(process_count).encode(), 0)
        self._limits = {"pids": process_count, "memory": memory_bytes}

    def passed(self) -> str | None:
        """Look once. Return what is too much: "processes" or "memory"."""
        self.peak_memory_bytes = max(self.peak_memory_bytes, self._read("memory"))
        for controller, name in (("memory", "memory"), ("pids", "processes")):
            if controller in self._limits and self._read(controller) > self._limits[controller]:
                return name
        return None

    def _read(self, controller: str) -> int:
        return int(os.pread(self._files[controller], 32, 0))
