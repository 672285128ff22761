"""What is asked when: decided before anything is sent, so that no answer however slow can thin out the load.

Each kind comes by itself, as a Poisson process: independent callers, now and then many at once. The same seed gives the
same requests at the same times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from random import Random
from typing import Literal, get_args

from tests.bench.support.traffic import poisson

Kind = Literal["chat", "cached", "embed", "run", "batch"]
KINDS: Sequence[Kind] = get_args(Kind)
# Arrivals a second of each kind at RATE=1: some chat, some of which the cache knows, retrieval, a few agents, little batch.
MIX: Mapping[Kind, float] = {"chat": 0.5, "cached": 1.0, "embed": 1.0, "run": 0.1, "batch": 0.05}
# Within which an answer is worth something to who asked. A batch may take its time.
GOOD_WITHIN_S: Mapping[Kind, float] = {"chat": 10, "cached": 2, "embed": 2, "run": 30, "batch": 60}
SHOTS_MAX = 200_000


class ScheduleError(Exception):
    """What was asked for cannot be made a plan of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """A request that is to be sent `at_s` after the start, whatever has become of the others."""

    at_s: float
    kind: Kind
    number: int  # Its own within the kind.


def read_mix(text: str) -> Mapping[Kind, float]:
    """`chat=2,embed=5`: arrivals a second; kinds that are not named do not come. Empty: MIX."""
    if not text:
        return MIX
    rates: dict[Kind, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        kind = next((known for known in KINDS if known == name.strip()), None)
        try:
            rate = float(value)
        except ValueError:
            rate = -1.0
        if kind is None or not 0 <= rate < inf:
            raise ScheduleError(f"MIX: {part!r} is not one of {', '.join(KINDS)} with a rate, such as chat=2")
        rates[kind] = rate
    return rates


def schedule(mix: Mapping[Kind, float], *, seconds: float, rate: float, seed: int) -> list[Shot]:
    """All requests of a run in the order of their times; `rate` multiplies those of the mix."""
    if not (0 < seconds < inf and 0 < rate < inf):
        raise ScheduleError("SECONDS and RATE must be above 0")
    if (expected := sum(mix.values()) * rate * seconds) > SHOTS_MAX:
        raise ScheduleError(f"some {expected:,.0f} requests are more than {SHOTS_MAX:,}")
    shots = [
        Shot(at_s=at_s, kind=kind, number=number)
        for kind, own in mix.items()
        if own > 0
        # By the kind's name: adding a kind moves no other's times.
        for number, at_s in enumerate(
            poisson(Random(f"{seed} {kind}"), rate=own * rate, from_s=0, until_s=seconds)
        )
    ]
    return sorted(shots, key=lambda shot: (shot.at_s, shot.kind))
