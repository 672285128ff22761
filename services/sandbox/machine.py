"""How much memory there is, for this machine or for the cgroup that this process is in."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_CGROUPS = Path("/sys/fs/cgroup")


def memory_bytes(proc: Path = Path("/proc"), cgroups: Path = _CGROUPS) -> int:
    """The least of what the machine has and of what any cgroup above this process allows."""
    return min(_machine_bytes(proc), *_allowed_bytes(proc / "self" / "cgroup", cgroups))


def _machine_bytes(proc: Path) -> int:
    for line in (proc / "meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemTotal":
            return int(value.split()[0]) << 10
    raise AssertionError("a kernel that does not tell its memory")


def _allowed_bytes(membership: Path, cgroups: Path) -> Iterator[int]:
    for line in membership.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, file = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            mount, file = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        inside = PurePosixPath(path).relative_to("/")
        for folder in (inside, *inside.parents):
            # Absent at the top of the second generation, "max" where nothing is limited, and within a namespace the
            # path may be another one than seen from here.
            with suppress(OSError, ValueError):
                yield int((mount / folder / file).read_text())
    yield 1 << 62
