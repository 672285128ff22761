"""What a process and a thousand idle streams weigh: resident memory before, and while the streams wait."""

import asyncio
from dataclasses import dataclass

from tests.bench.plane.target import Target
from tests.bench.support.load import run_async

MODEL = "stub-n1-i0-t30000000:latest"  # Its first token would come after half a minute.
WARM_UP_MODEL, WARM_UP_STREAMS, WARM_UP_COUNT = "stub-n1-i0:latest", 20, 500
SETTLE_S = 3.0
WARM_UP_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    base_bytes: int
    idle_bytes: int  # More than after the warm-up, with the streams.
    streams: int

    @property
    def per_thousand_bytes(self) -> float:
        return self.idle_bytes * 1000 / self.streams


async def weigh(target: Target, *, streams: int) -> Weight:
    """Open so many streams, and weigh the target before and when they have all been issued for a while.

    In between it answers some requests, so that what its first ones have it load is not taken for theirs.
    """
    base_bytes = target.rss_bytes()
    warming = target.load(
        WARM_UP_MODEL, concurrency=WARM_UP_STREAMS, count_max=WARM_UP_COUNT, seconds=WARM_UP_S
    )
    await run_async(warming)
    warm_bytes = target.rss_bytes()
    opening_s = streams / 500
    load = target.load(
        MODEL,
        concurrency=streams,
        count_max=streams,
        stagger_s=opening_s,
        seconds=opening_s + 2 * SETTLE_S,
        drain_s=0.0,
    )
    running = asyncio.create_task(run_async(load))
    await asyncio.sleep(opening_s + SETTLE_S)
    full_bytes = target.rss_bytes()
    outcome = await running
    if outcome.failed or outcome.unfinished != streams:
        raise RuntimeError(f"{target.name}: {outcome.failures} {outcome.first_failure}")
    return Weight(base_bytes=base_bytes, idle_bytes=full_bytes - warm_bytes, streams=streams)
