"""What a service holds on this machine: to be the same after any load, and nothing once it has ended.

Read from the kernel and not asked of the service, which would not know of what it has forgotten.
"""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.service.sandbox_app import Service, descendants

CGROUPS = Path("/sys/fs/cgroup")
SETTLES_WITHIN_S = 30.0
STEADY_S = 0.5  # A pool that refills holds now one process more, now one less.


@dataclass(frozen=True, slots=True, kw_only=True)
class Remains:
    """Counts."""

    processes: int
    descriptors: int
    mounts: int
    cgroups: int
    files: int  # In its folder for temporary ones.


def remains(service: Service, temporary: Path) -> Remains:
    pid = service.process.pid
    return Remains(
        processes=len(descendants(pid)),
        descriptors=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        mounts=len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines()),
        cgroups=len(cgroups_of(pid)),
        files=sum(1 for _ in temporary.rglob("*")),
    )


def cgroups_of(pid: int) -> list[Path]:
    """Each folder of its jails, in every hierarchy."""
    name = f"ollamesh-sandbox-{pid}-"
    # Folders of others come and go meanwhile, which `os.walk` takes as it comes.
    return [Path(path) for path, _, _ in os.walk(CGROUPS) if name in path]


def rss_bytes(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def zygote_bytes(service: Service) -> int:
    """Of the largest: while one is replaced, there are two."""
    zygotes = [pid for pid in descendants(service.process.pid) if len(pids_of(pid)) == 2]
    return max((rss_bytes(pid) for pid in zygotes), default=0)


def pids_of(pid: int) -> list[int]:
    """Its pid here; in the outer jail, if it is in that; and in its own, if it has one. None if it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            if line.startswith("NSpid"):
                return [int(word) for word in line.split()[1:]]
    return []


async def settled(look: Callable[[], Remains]) -> Remains:
    """What is there once it does not change any more."""
    deadline_s = time.monotonic() + SETTLES_WITHIN_S
    seen, since_s = look(), time.monotonic()
    while time.monotonic() < deadline_s:
        await asyncio.sleep(0.05)
        if (now := look()) != seen:
            seen, since_s = now, time.monotonic()
        elif time.monotonic() - since_s >= STEADY_S:
            break
    return seen


async def back_at(base: Remains, look: Callable[[], Remains]) -> Remains:
    """What is there once it is `base` again, or after a while anyway."""
    deadline_s = time.monotonic() + SETTLES_WITHIN_S
    while (now := look()) != base and time.monotonic() < deadline_s:
        await asyncio.sleep(0.05)
    return now
