"""Cgroups, where this machine lets us make them: the only way to limit a whole jail exactly.

Both generations are used, and both at once, as on hybrid hosts: each of the three controllers is found
where it is mounted. We make one folder for this process and in it one for each jail, below or beside
our own cgroup, and touch no setting of any folder that is not ours. In the second generation that
needs a parent whose controllers are delegated; where there is none, `find` says so and the meter (see
`inside.meter`) takes over.
"""

import errno
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from services.sandbox.core.limits import Limits

CONTROLLERS = ("memory", "pids", "cpu")
PREFIX = "ollamesh-sandbox-"

_CPU_PERIOD_US = 100_000  # A jail gets one processor: its quota is the whole period.
_SWAP_FILES = ("memory.memsw.limit_in_bytes", "memory.swap.max")  # Not on kernels that do not count swap.
_REMOVE_WAIT_S = 2.0  # A cgroup stays busy for a moment after its last process.


_serials = count()


@dataclass(frozen=True, slots=True)
class Home:
    """Where one controller lets us make cgroups."""

    controller: str
    version: int
    folder: Path


class Cgroup:
    """One jail's. Methods are file accesses that may take milliseconds, unless said otherwise.

    `oom_event` is an eventfd that tells when the kernel kills for memory. The second generation needs
    none: there it kills the whole cgroup, as it must be, and not just one process.
    """

    def __init__(self, name: str, homes: tuple[Home, ...], limits: Limits) -> None:
        self._homes = {home.controller: home for home in homes}
        self._folders = {home.controller: home.folder / name for home in homes}
        self._refused_before_count = 0
        self.oom_event: int | None = None
        try:
            self._make(limits)
        except OSError:
            self.remove()
            raise

    def _make(self, limits: Limits) -> None:
        for folder in set(self._folders.values()):
            folder.mkdir()
        for home in self._homes.values():
            for setting, value in _settings(home, limits):
                file = self._folders[home.controller] / setting
                if setting not in _SWAP_FILES or file.exists():
                    file.write_text(value)
        memory = self._homes.get("memory")
        if memory and memory.version == 1:
            self.oom_event = _oom_event(self._folders["memory"])

    @contextmanager
    def doors(self) -> Iterator[list[int]]:
        """Descriptors; who writes "0" to each is in."""
        with ExitStack() as opened:
            descriptors = []
            for folder in set(self._folders.values()):
                door = os.open(folder / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
                opened.callback(os.close, door)
                descriptors.append(door)
            yield descriptors

    def memory_exceeded(self) -> bool:
        """Whether the kernel had to kill for memory. Quick."""
        home = self._homes.get("memory")
        file = "memory.events" if home and home.version == 2 else "memory.oom_control"
        return self._count("memory", file, "oom_kill") > 0

    def processes_refused(self) -> bool:
        """Whether there were to be more processes or threads than may be. Quick."""
        return self._count("pids", "pids.events", "max") > self._refused_before_count

    def peak_memory_bytes(self) -> int:
        """0 where the kernel does not say. Quick."""
        if (home := self._homes.get("memory")) is None:
            return 0
        file = "memory.peak" if home.version == 2 else "memory.max_usage_in_bytes"
        with suppress(OSError):
            return int((self._folders["memory"] / file).read_text())
        return 0

    def memory_bytes(self) -> int:
        """What is used now; 0 where the kernel does not say. Quick."""
        if (home := self._homes.get("memory")) is None:
            return 0
        file = "memory.current" if home.version == 2 else "memory.usage_in_bytes"
        with suppress(OSError):
            return int((self._folders["memory"] / file).read_text())
        return 0

    def begin_anew(self) -> None:
        """What is told from now on is of another program, as far as the kernel lets us forget. Quick."""
        self._refused_before_count = self._count("pids", "pids.events", "max")
        if (home := self._homes.get("memory")) is not None and home.version == 1:
            with suppress(OSError):
                (self._folders["memory"] / "memory.max_usage_in_bytes").write_text("0")

    def _count(self, controller: str, file: str, name: str) -> int:
        """One line of a file that counts; 0 if there is none."""
        with suppress(KeyError, OSError):
            text = (self._folders[controller] / file).read_text()
            return int(dict(line.split() for line in text.splitlines())[name])
        return 0

    def remove(self) -> None:
        """Once all its processes have ended."""
        if self.oom_event is not None:
            os.close(self.oom_event)
        deadline_s = time.monotonic() + _REMOVE_WAIT_S
        for folder in set(self._folders.values()):
            _remove(folder, deadline_s)


class Cgroups:
    """Makes one cgroup for each jail. `close` removes the folder of them all."""

    def __init__(self, homes: tuple[Home, ...]) -> None:
        self._homes = homes

    @property
    def controllers(self) -> frozenset[str]:
        return frozenset(home.controller for home in self._homes)

    def make(self, jail_id: int, limits: Limits) -> Cgroup:
        return Cgroup(f"jail-{jail_id}", self._homes, limits)

    def close(self) -> None:
        for folder in {home.folder for home in self._homes}:
            _remove_all(folder, time.monotonic() + _REMOVE_WAIT_S)


def find(proc: Path = Path("/proc/self")) -> Cgroups:
    """Find, and make, a home for each controller that lets us; perhaps for none.

    Also removes what earlier processes left: one that was killed could not.
    """
    name = f"{PREFIX}{os.getpid()}-{next(_serials)}"
    homes: list[Home] = []
    for controller in CONTROLLERS:
        for version, parent in _parents(controller, proc):
            _sweep(parent)
            with suppress(OSError):
                homes.append(_make_home(controller, version, parent / name))
                break
    return Cgroups(tuple(homes))


def _make_home(controller: str, version: int, folder: Path) -> Home:
    made_before = folder.exists()  # As the home of another controller.
    folder.mkdir(exist_ok=True)
    home = Home(controller, version, folder)
    try:
        if version == 2:
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")
        Cgroup(f"probe-{controller}", (home,), Limits()).remove()
    except OSError:
        if not made_before:
            _remove(folder, time.monotonic())
        raise
    return home


def _parents(controller: str, proc: Path) -> Iterator[tuple[int, Path]]:
    """Where a folder for `controller` might be made: below us, or in the second generation beside us,
    because there a cgroup with processes cannot have children that are controlled.
    """
    if not (proc / "cgroup").exists():
        return  # A kernel without them.
    own = _own_cgroups((proc / "cgroup").read_text())
    for mounted, root, point in _mounts((proc / "mountinfo").read_text()):
        if controller in mounted and controller in own:
            yield 1, _below(point, root, own[controller])
        elif mounted == {"cgroup2"} and "" in own:
            here = _below(point, root, own[""])
            for parent in (here, here.parent):
                with suppress(OSError):
                    if controller in (parent / "cgroup.subtree_control").read_text().split():
                        yield 2, parent


def _own_cgroups(text: str) -> Mapping[str, str]:
    """Controller to path; "" is the second generation's."""
    lines = (line.split(":", 2) for line in text.splitlines())
    return {name: path for _, names, path in lines for name in names.split(",")}


def _mounts(text: str) -> Iterator[tuple[set[str], str, Path]]:
    """Of each cgroup file system: its controllers, the path in it that is mounted, and where."""
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        root, point = left.split(" ")[3:5]
        if kind == "cgroup":
            yield set(options.split(",")), root, Path(point)
        elif kind == "cgroup2":
            yield {"cgroup2"}, root, Path(point)


def _below(point: Path, root: str, path: str) -> Path:
    inside = path.removeprefix(root) if root != "/" else path
    return point / inside.strip("/")


def _settings(home: Home, limits: Limits) -> list[tuple[str, str]]:
    memory, processes = str(limits.memory_bytes), str(limits.process_count + 1)  # The init counts.
    match home.controller, home.version:
        case "memory", 1:
            settings = [("memory.limit_in_bytes", memory), ("memory.memsw.limit_in_bytes", memory)]
        case "memory", 2:
            settings = [("memory.max", memory), ("memory.swap.max", "0"), ("memory.oom.group", "1")]
        case "pids", _:
            settings = [("pids.max", processes)]
        case "cpu", 1:
            period = str(_CPU_PERIOD_US)
            settings = [("cpu.cfs_period_us", period), ("cpu.cfs_quota_us", period)]
        case _:
            settings = [("cpu.max", f"{_CPU_PERIOD_US} {_CPU_PERIOD_US}")]
    return settings


def _oom_event(folder: Path) -> int:
    event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        with (folder / "memory.oom_control").open() as control:
            (folder / "cgroup.event_control").write_text(f"{event} {control.fileno()}")
    except OSError:
        os.close(event)
        raise
    return event


def _sweep(parent: Path) -> None:
    """Remove what processes that no longer live have left."""
    for folder in parent.glob(f"{PREFIX}*"):
        if not Path("/proc", folder.name.removeprefix(PREFIX).partition("-")[0]).exists():
            _remove_all(folder, time.monotonic())


def _remove_all(folder: Path, deadline_s: float) -> None:
    for jail in folder.glob("jail-*"):
        _remove(jail, deadline_s)
    _remove(folder, deadline_s)


def _remove(folder: Path, deadline_s: float) -> None:
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() >= deadline_s:
                return  # `_sweep` will try again.
            time.sleep(0.005)
        else:
            return
