"""Half an hour of streams that are left: whether the gateway's memory grows, and whether all that it held comes back.

200 streams at once of 50 tokens, one every 40 ms, of which a fifth is left at a random moment, in every way that there
is (tests/bench/support/leavers.py). Gateway, callers and stub are a process each. A token of the gateway's lives for
ten minutes at most, so the callers are started anew every few minutes, as callers are.

Memory is read from the kernel. The slope is fitted to what was seen after a warm-up: interpreters and allocators grow
into their work. After the load, the gateway gets half a minute to hold no more than it did before.
"""

import asyncio
import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from tests.bench.plane import plots
from tests.bench.support.leavers import Plan, Record, drive
from tests.bench.support.report import Figure, report
from tests.bench.support.service import Service, service
from tests.bench.support.stub import stub
from tests.bench.support.watched import Sample, Watched, slope

MINUTES = float(os.environ.get("MINUTES", "30"))
MODEL, STREAM_S = "stub-n50-i40000", 2.0
STREAMS, LEAVING_SHARE = 200, 0.2
LEG_S = 240.0
WARM_UP_SHARE = 0.2
WARM_UP_S = (
    20.0  # Of load, before what is held at rest is looked at: what is opened once and kept is no leak.
)
SAMPLE_EVERY_S = 2.0
BACK_WITHIN_S = 30.0
SLOPE_GOAL_MB = 1.0  # Per ten minutes.
MB = 1e6
LAG = ("ollamesh_event_loop_lag_seconds_sum", "ollamesh_event_loop_lag_seconds_count")


@dataclass(slots=True, kw_only=True)
class Soaked:
    """What was seen."""

    base: Sample
    record: Record = field(default_factory=Record)
    samples: list[Sample] = field(default_factory=list)
    end: Sample | None = None
    cpu_s: float = 0.0
    lag_mean_s: float = 0.0


async def load(gateway: Service, *, seconds: float, seed: int = 0) -> Record:
    """Let callers come and go for so long."""
    record = Record()
    ends_at_s = time.monotonic() + seconds
    while (left_s := ends_at_s - time.monotonic()) > 0:
        seed += 1
        plan = Plan(
            address=gateway.address,
            token=gateway.token("soak"),
            model=MODEL,
            stream_s=STREAM_S,
            caller_count=STREAMS,
            leaving_share=LEAVING_SHARE,
            seed=seed,
            until_s=min(left_s, LEG_S),
        )
        record.add(await drive(plan))
    return record


async def soak(gateway: Service, watched: Watched) -> Soaked:
    before = await watched.sample()
    await load(gateway, seconds=WARM_UP_S)
    found = Soaked(base=await watched.back_at(before, within_s=BACK_WITHIN_S))
    cpu_s = gateway.cpu_s()
    lag = await gateway.totals(*LAG)

    async def look() -> None:
        while True:
            found.samples.append(await watched.sample())
            await asyncio.sleep(SAMPLE_EVERY_S)

    looking = asyncio.create_task(look())
    found.record = await load(gateway, seconds=MINUTES * 60, seed=1_000)
    looking.cancel()
    with suppress(asyncio.CancelledError):
        await looking
    found.cpu_s = gateway.cpu_s() - cpu_s
    late_s, count = (now - then for now, then in zip(await gateway.totals(*LAG), lag, strict=True))
    found.lag_mean_s = late_s / count
    found.end = await watched.back_at(found.base, within_s=BACK_WITHIN_S)
    return found


def figures(found: Soaked) -> list[Figure]:
    return [*memory_figures(found), *held_figures(found), *load_figures(found)]


def memory_figures(found: Soaked) -> list[Figure]:
    began_s, ended_s = found.samples[0].at_s, found.samples[-1].at_s
    settled = [one for one in found.samples if one.at_s >= began_s + WARM_UP_SHARE * (ended_s - began_s)]
    rss = slope([(one.at_s, one.rss_bytes) for one in settled])
    own = slope([(one.at_s, one.anonymous_bytes) for one in settled])
    per = 600 / MB
    return [
        Figure(name="RSS slope", value=rss.per_s * per, unit="MB/10 min", goal=SLOPE_GOAL_MB),
        Figure(name="RSS slope, standard error", value=rss.error_per_s * per, unit="MB/10 min"),
        Figure(name="slope of what it has allocated", value=own.per_s * per, unit="MB/10 min"),
        Figure(name="RSS after the warm-up", value=settled[0].rss_bytes / MB, unit="MB"),
        Figure(name="RSS under load, last", value=settled[-1].rss_bytes / MB, unit="MB"),
    ]


def held_figures(found: Soaked) -> list[Figure]:
    """More than before, after the load."""
    assert found.end is not None, "the soak has ended"
    names = ("descriptors", "tasks", "calls in flight", "slots in use")
    pairs = zip(names, found.end.held, found.base.held, strict=True)
    return [
        *(
            Figure(name=f"{name} left over", value=max(0, end - base), unit=f"of {base}", goal=0)
            for name, end, base in pairs
        ),
        Figure(name="connections kept alive", value=found.end.kept_alive_count, unit=""),
    ]


def load_figures(found: Soaked) -> list[Figure]:
    took_s = found.samples[-1].at_s - found.samples[0].at_s
    streams = sum(one.in_flight_count for one in found.samples) / len(found.samples)
    left, failed = found.record.left, found.record.failed
    return [
        Figure(name="streams at once, mean", value=streams, unit=""),
        Figure(name="streams completed", value=found.record.completed_count, unit=""),
        Figure(name="streams left", value=sum(left.values()), unit=""),
        *(Figure(name=f"streams left: {way}", value=count, unit="") for way, count in sorted(left.items())),
        Figure(name="streams failed", value=sum(failed.values()), unit="", goal=0),
        Figure(name="gateway's processor", value=100 * found.cpu_s / took_s, unit="%"),
        Figure(name="event loop lag, mean", value=1e3 * found.lag_mean_s, unit="ms"),
    ]


async def main() -> None:
    with stub(f"{MODEL}:latest") as upstream:
        async with service([upstream.url], instance_slots=STREAMS + 56) as gateway:
            found = await soak(gateway, Watched(gateway, [upstream.port]))
    remarks = [f"{count} streams failed with {why}" for why, count in found.record.failed.items()]
    report("soak", rounds=1, figures=figures(found), remarks=remarks)
    samples = {"base": asdict(found.base), "samples": [asdict(one) for one in found.samples]}
    plots.SOAK_SAMPLES.write_text(json.dumps(samples))
    plots.memory()


if __name__ == "__main__":
    asyncio.run(main())
