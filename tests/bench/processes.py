"""What it costs to be several processes: CPU per request, by process, and what the link adds to a request.

Answers of one token from a stub that costs nothing, so that what is measured is what
a request costs; per token nothing crosses between processes. Rounds go in turn through one process, a head with two
workers and one with four, on the same machine in the same minute. A faster service it cannot show where cores are few.
"""

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AsyncExitStack
from itertools import cycle
from pathlib import Path
from statistics import median

import psutil

from tests.bench.support.report import Figure, report
from tests.bench.support.stub import stub
from tests.service.inference_app import Call
from tests.service.inference_processes import Program, program

COUNTS = (1, 2, 4)
ROUNDS = int(os.environ.get("ROUNDS", "7"))
REQUESTS, AT_ONCE, ALONE = 600, 8, 100
MODEL = "stub-n1-i0"


def cpu_s(pid: int) -> float:
    """Processor time of all threads, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(path.read_text().split()[0]) for path in tasks) / 1e9


async def one(running: Program, place: int) -> tuple[float, float]:
    """Return how long the first event and the first token of a request took."""
    began_s = time.perf_counter()
    opened_s = first_s = 0.0
    call: Call = running.services[place].chat(model=MODEL)
    async for response in call:
        opened_s = opened_s or time.perf_counter() - began_s
        if response.event.HasField("delta"):
            first_s = first_s or time.perf_counter() - began_s
    return opened_s, first_s


async def load(running: Program) -> None:
    """Keep so many requests under way, dealt out over the processes."""
    places = cycle(range(len(running.services)))

    async def some() -> None:
        for _ in range(REQUESTS // AT_ONCE):
            await one(running, next(places))

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))


async def measured(running: Program, found: dict[str, list[float]]) -> None:
    """Add one round's figures, in microseconds."""
    head, workers = running.head.pid, [worker.pid for worker in running.workers()]
    before = {pid: cpu_s(pid) for pid in (head, *workers)}
    await load(running)
    used = {pid: (cpu_s(pid) - before[pid]) / REQUESTS * 1e6 for pid in before}
    found["head CPU"].append(used[head])
    found["workers CPU"].append(sum(used[pid] for pid in workers))
    found["all CPU"].append(sum(used.values()))
    times = [await one(running, place % len(running.services)) for place in range(ALONE)]
    found["first event"].append(median(opened_s for opened_s, _ in times) * 1e6)
    found["first token"].append(median(first_s for _, first_s in times) * 1e6)


async def idle_bytes(running: Program) -> int:
    """What the whole service holds in memory, shared pages divided."""
    pids = [running.head.pid, *(worker.pid for worker in running.workers())]
    return sum(psutil.Process(pid).memory_full_info().pss for pid in pids)


def figures(found: Mapping[int, Mapping[str, list[float]]], pss_bytes: Mapping[int, int]) -> list[Figure]:
    """Return each figure of several processes beside that of one."""
    made = []
    for count, values in found.items():
        made += [
            Figure(
                name=f"{count} processes: {name} per request",
                value=median(some),
                unit="us",
                baseline=median(found[1][name]),
            )
            for name, some in values.items()
        ]
        made.append(
            Figure(
                name=f"{count} processes: memory (PSS)",
                value=pss_bytes[count] / 1e6,
                unit="MB",
                baseline=pss_bytes[1] / 1e6,
            )
        )
    return made


async def measure(url: str) -> list[Figure]:
    async with AsyncExitStack() as opened:
        services = {
            count: await opened.enter_async_context(
                program(url, processes=count, instance_slots=64, queue_max=1000, poll_every_s=2)
            )
            for count in COUNTS
        }
        for running in services.values():
            await load(running)  # Whatever is done once has been done.
        found: dict[int, dict[str, list[float]]] = {count: defaultdict(list) for count in COUNTS}
        for _ in range(ROUNDS):
            for count, running in services.items():
                await measured(running, found[count])
        return figures(found, {count: await idle_bytes(running) for count, running in services.items()})


def main() -> None:
    with stub(f"{MODEL}:latest") as upstream:
        found = asyncio.run(measure(upstream.url))
    report("processes", rounds=ROUNDS, figures=found, remarks=[f"Load average: {os.getloadavg()[0]:.1f}."])


if __name__ == "__main__":
    main()
