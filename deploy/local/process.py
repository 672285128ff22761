"""Processes by identity, not by number: a pid is reused, a pid with its time of birth is not."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil
from msgspec import Struct

BIRTH_FIELD, STATE_FIELD = 19, 0  # Of /proc/PID/stat, counted behind the name in parentheses.
POLL_S = 0.05


class Identity(Struct, frozen=True):
    pid: int
    birth: str  # Boot and clock ticks since then.


class Memory(Struct, frozen=True):
    size_bytes: int
    measure: str  # "pss" divides shared pages among those who share them; "rss" counts them for each.


def identify(pid: int) -> Identity | None:
    """None if there is no such process, or only its exit status is left."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return None if fields[STATE_FIELD] in "ZX" else Identity(pid, f"{boot}:{fields[BIRTH_FIELD]}")


def is_alive(identity: Identity) -> bool:
    return identify(identity.pid) == identity


def send(identity: Identity, number: int) -> None:
    """Signal that very process; one that is gone needs none."""
    if is_alive(identity):
        with contextlib.suppress(ProcessLookupError):
            os.kill(identity.pid, number)


def end_all(identities: Iterable[Identity], *, within_s: float) -> None:
    """Wait for processes that are going anyway; kill what is still there after `within_s`."""
    left = wait_for(identities, within_s=within_s)
    for identity in left:
        send(identity, signal.SIGKILL)
    wait_for(left, within_s=within_s)


def wait_for(identities: Iterable[Identity], *, within_s: float) -> list[Identity]:
    """Those that are still alive after `within_s`."""
    left, end_s = list(identities), time.monotonic() + within_s
    while (left := [identity for identity in left if is_alive(identity)]) and time.monotonic() < end_s:
        time.sleep(POLL_S)
    return left


def memory_of_trees(pids: Iterable[int]) -> Mapping[int, Memory]:
    """What each process and all below it use. Trees that overlap are counted in each."""
    children: dict[int, list[int]] = {}
    for process in psutil.process_iter(["ppid"]):
        children.setdefault(process.info["ppid"], []).append(process.pid)
    return {pid: _sum(_memory(each) for each in _tree(pid, children)) for pid in pids}


def _tree(root: int, children: Mapping[int, list[int]]) -> Iterable[int]:
    yield root
    for child in children.get(root, ()):
        yield from _tree(child, children)


def _memory(pid: int) -> Memory:
    try:
        process = psutil.Process(pid)
        try:
            return Memory(process.memory_full_info().pss, "pss")
        except psutil.AccessDenied:  # Another uid's, or a kernel without the figure.
            return Memory(process.memory_info().rss, "rss")
    except psutil.NoSuchProcess:
        return Memory(0, "pss")


def _sum(parts: Iterable[Memory]) -> Memory:
    listed = list(parts)
    measure = "pss" if all(part.measure == "pss" for part in listed) else "rss"
    return Memory(sum(part.size_bytes for part in listed), measure)
