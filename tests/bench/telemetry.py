"""What telemetry costs: the gateway with metrics, logs, exemplars and a span of everything, beside one that tells nothing.

Both are processes of their own, and take turns in the same minute; the first is what `make up` starts, asked as the edge
asks, and scraped. The third way has no collector, which tells what of it spans cost. Throughput is of a closed loop that
keeps the gateway busy; where other work takes the machine's processors away, the gateway's own processor time for a request
is the steadier figure, and the share of requests that it allows is what the goal is held to.
"""

import asyncio
import os
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from statistics import median

from tests.bench.plane.target import CHAT
from tests.bench.processes import cpu_s
from tests.bench.support.load import Load, run_async
from tests.bench.support.peers import grpc_body
from tests.bench.support.report import ROOT, Figure, report
from tests.bench.support.service import Service, service
from tests.bench.support.stub import stub

ROUNDS = int(os.environ.get("ROUNDS", "16"))
SECONDS = float(os.environ.get("SECONDS_EACH", "0.6"))
AT_ONCE, SLOTS = 8, 64
GET_FLEET = "/ollamesh.inference.v1.InferenceService/GetFleet"
SHARE_MIN, ADDED_MS_MAX = 0.9, 1.0
TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
OFF, ON, NO_SPANS = "all off", "all on", "without spans"


@dataclass(frozen=True, slots=True)
class Ask:
    """One kind of call."""

    name: str
    path: str
    body: bytes


ASKS = (
    Ask("unary calls", GET_FLEET, b""),
    Ask("streams of one token", CHAT, grpc_body("stub-n1-i0:latest")),
    Ask("streams of 100 tokens", CHAT, grpc_body("stub-n100-i0:latest")),
)


@dataclass(frozen=True, slots=True)
class Measured:
    rate_per_s: float
    cpu_us: float  # Of a request.
    p50_ms: float  # Of a caller who is alone.


@asynccontextmanager
async def sink() -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.support.sink", cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield f"127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.kill()
        await process.wait()


async def measured(gateway: Service, ask: Ask) -> Measured:
    async def put_on(concurrency: int, seconds: float) -> tuple[float, int, float, float]:
        """Return the gateway's processor time, and how many requests there were, at which rate and with which p50."""
        before_s = cpu_s(gateway.pid)
        outcome = await run_async(
            Load(
                protocol="grpc",
                port=int(gateway.address.rpartition(":")[2]),
                path=ask.path,
                body=ask.body,
                headers=TRACE,
                bearer=gateway.token("bench"),
                connections=min(concurrency, 4),
                concurrency=concurrency,
                seconds=seconds,
            )
        )
        if trouble := outcome.void or outcome.failures:
            raise RuntimeError(f"{ask.name}: {trouble} {outcome.first_failure}")
        rate = outcome.completed / outcome.wall_s
        return cpu_s(gateway.pid) - before_s, outcome.completed, rate, outcome.total_s.p50

    used_s, count, rate, _ = await put_on(AT_ONCE, SECONDS)
    *_, alone_s = await put_on(1, SECONDS / 2)
    return Measured(rate_per_s=rate, cpu_us=used_s / count * 1e6, p50_ms=alone_s * 1e3)


Found = Mapping[tuple[str, str], list[Measured]]


async def rounds(ways: Mapping[str, Service]) -> Found:
    """What each way took for each kind of call, the ways taking turns."""
    found: defaultdict[tuple[str, str], list[Measured]] = defaultdict(list)
    for number in range(ROUNDS + 1):
        for ask in ASKS:
            turns = list(ways)
            random.shuffle(turns)  # Whoever comes after a busy one would have its share of that.
            for name in turns:
                one = await measured(gateway := ways[name], ask)
                if number:  # The first warms.
                    found[name, ask.name].append(one)
                if name == ON:
                    await gateway.totals("ollamesh_spans_total")  # Scraped.
    return found


def figures(found: Found) -> list[Figure]:
    made: list[Figure] = []
    for ask in ASKS:

        def pairs(
            value: Callable[[Measured], float], way: str, asked: str = ask.name
        ) -> list[tuple[float, float]]:
            own, base = found[way, asked], found[OFF, asked]
            return [(value(one), value(other)) for one, other in zip(own, base, strict=True)]

        rates, cpus, times = (
            pairs(lambda one: one.rate_per_s, ON),
            pairs(lambda one: one.cpu_us, ON),
            pairs(lambda one: one.p50_ms, ON),
        )
        without = pairs(lambda one: one.cpu_us, NO_SPANS)
        made += [
            Figure(
                name=f"{ask.name}, {AT_ONCE} at once",
                value=median(own for own, _ in rates),
                baseline=median(base for _, base in rates),
                unit="/s",
            ),
            Figure(
                name=f"{ask.name}: processor time of the gateway",
                value=median(own for own, _ in cpus),
                baseline=median(base for _, base in cpus),
                unit="us",
            ),
            Figure(
                name=f"{ask.name}: the same, without spans",
                value=median(own for own, _ in without),
                baseline=median(base for _, base in without),
                unit="us",
            ),
            Figure(
                name=f"{ask.name}: share of the throughput, by processor time",
                value=median(base / own for own, base in cpus),
                unit="x",
                goal=SHARE_MIN,
                at_least=True,
            ),
            Figure(
                name=f"{ask.name}: added to the median latency",
                value=median(own - base for own, base in times),
                baseline=median(base for _, base in times),
                unit="ms",
                goal=ADDED_MS_MAX,
            ),
        ]
    return made


async def main() -> None:
    async with AsyncExitStack() as opened:
        collector = await opened.enter_async_context(sink())
        ollama = opened.enter_context(stub("stub-n1-i0:latest", "stub-n100-i0:latest"))
        ways = {
            OFF: service([ollama.url], "tests.bench.support.untold", instance_slots=SLOTS),
            ON: service([ollama.url], otlp_target=collector, instance_slots=SLOTS),
            NO_SPANS: service([ollama.url], instance_slots=SLOTS),
        }
        running = {name: await opened.enter_async_context(way) for name, way in ways.items()}
        found = await rounds(running)
        (told,) = await running[ON].totals("ollamesh_spans_total")
        remarks = [
            f"{told:.0f} spans were recorded. Rates in wall-clock time are of a machine that other work may share."
        ]
    report("telemetry", rounds=ROUNDS, figures=figures(found), remarks=remarks)


if __name__ == "__main__":
    asyncio.run(main())
