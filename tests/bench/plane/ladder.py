"""How many paced streams a target carries before its tokens come in bunches.

Streams of 50 tokens a second, out of step, a quarter more of them at each rung, until the 99th percentile of the time
between a stream's tokens is twice what it should be.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.plane.target import Target
from tests.bench.support.load import run

MODEL = "stub-n500-i20000:latest"
INTERVAL_S = 0.02
LIMIT_S = 2 * INTERVAL_S
STEP = 1.25
SECONDS, WARM_UP_S = 5.0, 2.0
RUNGS_MAX = 30
STREAMS_MAX = 1000  # Slots of the gateway's one instance, less what it needs for itself.


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    streams: int
    interval_p99_s: float
    failed: int

    @property
    def holds(self) -> bool:
        return self.failed == 0 and 0 < self.interval_p99_s <= LIMIT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Climb:
    """One way up. `sustained` is the last rung that held, 0 if none did."""

    rungs: Sequence[Rung]

    @property
    def sustained(self) -> int:
        return max((rung.streams for rung in self.rungs if rung.holds), default=0)


def measure(targets: Sequence[tuple[Target, int]], *, rounds: int) -> Mapping[str, list[Climb]]:
    """Let each target climb from its own first rung, in turns."""
    found: defaultdict[str, list[Climb]] = defaultdict(list)
    for _ in range(rounds):
        for target, first in targets:
            found[target.name].append(climb(target, first))
    return found


def climb(target: Target, first: int) -> Climb:
    return climb_by(lambda streams: _rung(target, streams), first)


def climb_by(rung: Callable[[int], Rung], first: int) -> Climb:
    """Go up until a rung does not hold; down instead, if the first one does not."""
    rungs = [rung(first)]
    while not rungs[-1].holds and rungs[-1].streams > 1 and len(rungs) < RUNGS_MAX:
        rungs.append(rung(int(rungs[-1].streams / STEP)))
    if len(rungs) == 1:
        streams = float(first)
        while rungs[-1].holds and streams < STREAMS_MAX and len(rungs) < RUNGS_MAX:
            streams = min(STREAMS_MAX, streams * STEP)
            rungs.append(rung(max(rungs[-1].streams + 1, round(streams))))
    return Climb(rungs=sorted(rungs, key=lambda one: one.streams))


def _rung(target: Target, streams: int) -> Rung:
    load = target.load(
        MODEL,
        concurrency=streams,
        stagger_s=WARM_UP_S,
        warm_up_s=0.0,
        seconds=WARM_UP_S + SECONDS,
        drain_s=0.0,
    )
    outcome = run(load)
    return Rung(streams=streams, interval_p99_s=outcome.interval_s.p99, failed=outcome.failed)
