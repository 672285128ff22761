"""Traffic for a benchmark: what is asked when, and what became of it.

An open loop asks when its plan says so, however slow the answers are; latencies count from then, so that a generator
that cannot keep up makes the figures worse, not better. A closed loop asks again as soon as it has its answer. Both
run in a process of their own (generator.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from random import Random

from tests.bench.support.apart import run_apart
from tests.bench.support.report import percentile

OK = "ok"
LATE = "LATE"  # Its deadline passed.
REFUSED = ("QUEUE_FULL", "DEADLINE_UNREACHABLE", "BUSY")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request. Its deadline counts from `at_s`, when it should be sent."""

    at_s: float  # From the start.
    tenant: str
    text: str
    model: str
    output_max: int
    deadline_s: float
    priority: int = 2
    patient: bool = False  # Whether it comes back when it was refused, as it was told.
    kind: str = ""  # For whoever reads the answers.


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """So many callers, each of which asks `asks` in turns, again and again, the n-th of them from the n-th on."""

    asks: Sequence[Ask]  # From the time of the first one on.
    caller_count: int
    until_s: float = 1e9
    request_count_max: int = 1_000_000  # Of all its callers.


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    address: str = ""  # Of the gateway; empty: straight to `urls`, in turns.
    urls: Sequence[str] = ()
    tokens: dict[str, str] = field(default_factory=dict)  # By tenant.
    tells_deadline: bool = True  # Whether the gateway is told. If not, callers leave when theirs has passed.
    asks: Sequence[Ask] = ()
    loops: Sequence[Loop] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of a request. Times are from the start; -1 for what did not happen."""

    kind: str
    tenant: str
    at_s: float  # When it should have been sent,
    began_s: float  # and when it was.
    first_s: float
    ended_s: float
    deadline_s: float
    verdict: str  # OK, LATE, or a reason.
    try_count: int = 1

    @property
    def total_s(self) -> float:
        return self.ended_s - self.at_s

    @property
    def good(self) -> bool:
        """Whether it was answered in time."""
        return self.verdict == OK and self.total_s <= self.deadline_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    began_at_s: float  # On the clock of all processes of a machine.
    answers: list[Answer]

    @property
    def late_p99_s(self) -> float:
        """Return how late the generator itself was."""
        return percentile([answer.began_s - answer.at_s for answer in self.answers], 99)


async def drive(plan: Plan) -> Record:
    """Let a process of its own do it."""
    return await run_apart("tests.bench.support.generator", plan, Record)


def poisson(random: Random, *, rate: float, from_s: float, until_s: float = inf) -> Iterator[float]:
    """Yield when somebody comes."""
    at_s = from_s
    while (at_s := at_s + random.expovariate(rate)) < until_s:
        yield at_s
