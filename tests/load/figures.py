"""What a run comes to: percentiles, goodput and failures by kind. No I/O."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.support.report import percentile
from tests.load.record import OK, Answer, Record
from tests.load.schedule import KINDS, Kind

LATE_P99_MAX_S = 0.05  # A generator that is later than this has measured itself.


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How durations are spread; all are 0 when there are none."""

    count: int = 0
    p50_s: float = 0.0
    p90_s: float = 0.0
    p99_s: float = 0.0
    max_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What became of the requests of a kind, or of all of them. Latencies are of those that were answered well."""

    name: str
    sent_count: int
    ok_count: int
    good_count: int  # Answered well and in time.
    good_per_s: float
    token_count: int
    first: Spread
    total: Spread
    failures: Mapping[str, int]  # By reason, the most frequent first.

    @property
    def good_share(self) -> float:
        return self.good_count / self.sent_count if self.sent_count else 0.0


def spread(values: Iterable[float]) -> Spread:
    known = sorted(values)
    if not known:
        return Spread()
    if len(known) == 1:
        return Spread(count=1, p50_s=known[0], p90_s=known[0], p99_s=known[0], max_s=known[0])
    return Spread(
        count=len(known),
        p50_s=percentile(known, 50),
        p90_s=percentile(known, 90),
        p99_s=percentile(known, 99),
        max_s=known[-1],
    )


def summary(name: str, answers: Sequence[Answer], *, seconds: float) -> Summary:
    """`seconds`: for how long requests were sent, by which rates go."""
    well = [answer for answer in answers if answer.verdict == OK]
    good_count = sum(answer.is_good for answer in answers)
    return Summary(
        name=name,
        sent_count=len(answers),
        ok_count=len(well),
        good_count=good_count,
        good_per_s=good_count / seconds,
        token_count=sum(answer.token_count for answer in answers),
        first=spread(first_s for answer in well if (first_s := answer.first_after_s) is not None),
        total=spread(answer.total_s for answer in well),
        failures=dict(Counter(answer.verdict for answer in answers if answer.verdict != OK).most_common()),
    )


def by_kind(answers: Sequence[Answer]) -> Mapping[Kind, Sequence[Answer]]:
    """In the order of KINDS; those that did not come are left out."""
    found: dict[Kind, list[Answer]] = {kind: [] for kind in KINDS}
    for answer in answers:
        found[answer.kind].append(answer)
    return {kind: own for kind, own in found.items() if own}


def summaries(record: Record, *, seconds: float) -> list[Summary]:
    """One of each kind, and one of all."""
    parts = [summary(kind, own, seconds=seconds) for kind, own in by_kind(record.answers).items()]
    return [*parts, summary("all", record.answers, seconds=seconds)]


def lateness(record: Record) -> Spread:
    """How much later than intended requests were sent: the generator's own doing."""
    return spread(answer.began_s - answer.at_s for answer in record.answers)


def void(record: Record) -> str | None:
    """Say why nothing can be concluded from a run, if so."""
    if not record.answers:
        return "nothing was sent"
    if (late := lateness(record)).p99_s > LATE_P99_MAX_S:
        return f"the generator was late: one request in a hundred by {late.p99_s * 1e3:.0f} ms or more"
    return None
