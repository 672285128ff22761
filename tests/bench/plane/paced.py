"""What each target adds to a first token and to each token's way, at a load that all of them can bear.

Open loops: streams of 50 tokens, 50 a second, begin when a seeded plan says so, on the clock of that plan. All targets
are measured in turn, round after round, so that what the machine does meanwhile happens to all of them.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from tests.bench.plane.target import Target
from tests.bench.support.load import Outcome, Spread, run

MODEL, TOKEN_COUNT = "stub-n50-i20000:latest", 50
RATE_PER_S = 6.0  # 300 tokens a second: what keeps LiteLLM about half busy.
SECONDS, WARM_UP_S = 7.0, 1.0
TRIES_MAX = 3  # Of a round in which the generator was late.


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A round of one target."""

    number: int  # Of the round.
    outcome: Outcome
    cpu_s: float

    @property
    def cpu_per_token_s(self) -> float:
        return self.cpu_s / max(1, self.outcome.tokens)


@dataclass(slots=True)
class Rounds:
    """All valid rounds by target, how many were void, and how many streams failed in those that were not."""

    samples: defaultdict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    void_count: int = 0
    void_reasons: set[str] = field(default_factory=set)
    failed: Counter[str] = field(default_factory=Counter)  # By target.

    def added_s(self, name: str, base: str, of: Callable[[Outcome], Spread]) -> float:
        """Return the median over the rounds that both have of how much later the median comes than at `base`."""
        bases = {sample.number: sample.outcome for sample in self.samples[base]}
        return median(
            of(sample.outcome).p50 - of(bases[sample.number]).p50
            for sample in self.samples[name]
            if sample.number in bases
        )

    def median_s(self, name: str, of: Callable[[Outcome], float]) -> float:
        return median(of(sample.outcome) for sample in self.samples[name])

    def cpu_per_token_s(self, name: str) -> float:
        return median(sample.cpu_per_token_s for sample in self.samples[name])

    def has(self, *names: str) -> bool:
        """Whether there is a round that all of them have."""
        rounds = [{sample.number for sample in self.samples.get(name, [])} for name in names]
        return bool(set.intersection(*rounds))


def measure(targets: Sequence[Target], *, rounds: int, begin: Callable[[], None] = lambda: None) -> Rounds:
    """Measure targets in turns. `begin` is called before each round."""
    found = Rounds()
    for number in range(rounds):
        begin()
        for target in targets:
            if (sample := _valid(target, number, found)) is not None:
                found.samples[target.name].append(sample)
    return found


def _valid(target: Target, number: int, found: Rounds) -> Sample | None:
    """Measure until the generator is in time. What the target itself fails at is counted and stays."""
    for _ in range(TRIES_MAX):
        load = target.load(
            MODEL,
            rate_per_s=RATE_PER_S,
            seed=number + 1,
            seconds=SECONDS,
            warm_up_s=WARM_UP_S,
            expect_token_count=TOKEN_COUNT,
        )
        began_cpu_s = target.cpu_s()
        outcome = run(load)
        cpu_s = target.cpu_s() - began_cpu_s
        if (reason := outcome.void) is None:
            found.failed[target.name] += outcome.failed + outcome.unfinished
            return Sample(number=number, outcome=outcome, cpu_s=cpu_s)
        found.void_count += 1
        found.void_reasons.add(reason)
    return None
