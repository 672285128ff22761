"""A gateway seen from outside, again and again: what it holds, and whether that grows."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.bench.support.service import Service

POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    at_s: float  # On the clock of all processes of a machine.
    rss_bytes: int
    pss_bytes: (
        int  # Files in memory are shared out over all that have them, so it changes with the neighbours.
    )
    anonymous_bytes: int  # What it has allocated: a leak is in here.
    descriptor_count: int  # Without those of kept-alive connections to instances:
    kept_alive_count: int
    task_count: int
    in_flight_count: int  # Calls.
    running_count: int  # Slots in use.

    @property
    def held(self) -> tuple[int, int, int, int]:
        """Return what must come back when nobody calls."""
        return self.descriptor_count, self.task_count, self.in_flight_count, self.running_count


class Watched:
    """The gateway and the ports of its instances."""

    def __init__(self, gateway: Service, instance_ports: Sequence[int]) -> None:
        self._gateway = gateway
        self._process = psutil.Process(gateway.pid)
        self._ports = frozenset(instance_ports)

    async def sample(self) -> Sample:
        memory = memory_of(self._process.pid)
        descriptor_count = self._process.num_fds()
        kept_alive_count = sum(
            bool(one.raddr) and one.raddr.port in self._ports
            for one in self._process.net_connections(kind="tcp")
        )
        tasks, in_flight, running = await self._gateway.totals(
            "ollamesh_event_loop_tasks", "ollamesh_rpc_in_flight", "ollamesh_instance_running_requests"
        )
        return Sample(
            at_s=time.monotonic(),
            rss_bytes=memory["Rss"],
            pss_bytes=memory["Pss"],
            anonymous_bytes=memory["Anonymous"],
            descriptor_count=descriptor_count - kept_alive_count,
            kept_alive_count=kept_alive_count,
            task_count=round(tasks),
            in_flight_count=round(in_flight),
            running_count=round(running),
        )

    async def back_at(self, base: Sample, *, within_s: float) -> Sample:
        """Return the first sample that holds no more than `base`, or the last within the time."""
        gives_up_at_s = time.monotonic() + within_s
        while True:
            found = await self.sample()
            back = all(now <= then for now, then in zip(found.held, base.held, strict=True))
            if back or found.at_s > gives_up_at_s:
                return found
            await asyncio.sleep(POLL_S)


def memory_of(pid: int) -> dict[str, int]:
    """Return a process's memory in bytes, by the kernel's names."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]  # The first is about addresses.
    fields = (line.split() for line in lines)
    return {name.rstrip(":"): int(kib) * 1024 for name, kib, _ in fields}


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    per_s: float
    error_per_s: (
        float  # Standard error, as if each point erred by itself; memory's do not, so it is too small.
    )


def slope(points: Sequence[tuple[float, float]]) -> Slope:
    """Fit a line to (time, value) by least squares; at least three points."""
    count = len(points)
    mean_s, mean = sum(at for at, _ in points) / count, sum(value for _, value in points) / count
    spread = sum((at - mean_s) ** 2 for at, _ in points)
    per_s = sum((at - mean_s) * (value - mean) for at, value in points) / spread
    residual = sum((value - mean - per_s * (at - mean_s)) ** 2 for at, value in points)
    return Slope(per_s=per_s, error_per_s=(residual / (count - 2) / spread) ** 0.5)
