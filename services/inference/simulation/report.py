"""What a simulation came to, in numbers for programs and in a table for people."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil

from services.inference.simulation.calls import REFUSED, Call, Ran, Verdict, time_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Of those that were completed; 0 if none was."""

    p50_s: float
    p95_s: float
    p99_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Of all instances' time. They add up to 1."""

    busy: float
    load: float  # Nobody had a slot, and something was loaded.
    idle: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    front: str
    instance_count: int
    seconds: float  # From the first arrival until the last request was done with.
    request_count: int
    outcomes: Mapping[str, int]  # By verdict; all of them, also those that nobody came to.
    goodput: float  # Requests completed in time, per second.
    output_tokens_per_s: float
    total: Percentiles
    wait: Percentiles  # Until it had a slot.
    first_token: Percentiles
    utilisation: Share
    slots_used: (
        float  # Of all slots' time. A GPU is busy with one request, and full with as many as it has slots.
    )
    loads: Mapping[str, int]  # By cause.
    fairness: (
        float  # Jain's index of GPU-seconds over tenants, each by its weight: 1 is even, 1/n is one has all.
    )
    tenant_count: int

    @property
    def refused(self) -> float:
        """Return the share that was turned away at once."""
        return sum(self.outcomes[verdict] for verdict in REFUSED) / max(1, self.request_count)

    @property
    def missed(self) -> float:
        """Return the share that was accepted and then not done in time."""
        late = (Verdict.DEADLINE_MISSED, Verdict.QUEUE_TIMEOUT, Verdict.INSTANCE_FAILED)
        return sum(self.outcomes[verdict] for verdict in late) / max(1, self.request_count)

    def plain(self) -> dict[str, object]:
        """Return what JSON can hold."""
        return {**asdict(self), "refused": self.refused, "missed": self.missed}


def report(front: str, ran: Ran, *, weights: Mapping[str, float]) -> Report:
    completed = [call for call in ran.calls if call.verdict is Verdict.COMPLETED]
    began_s = ran.calls[0].arrival.at_s if ran.calls else 0.0
    seconds = max(ran.ended_s - began_s, 1e-9)
    outcomes = Counter(call.verdict for call in ran.calls if call.verdict)
    times = [time_of(books, ran.ended_s) for books in ran.machines]
    wall_s = max(ran.ended_s * len(times), 1e-9)
    had: Counter[str] = Counter()
    for time in times:
        had.update(time.tenants)
    tenants = sorted({call.arrival.tenant for call in ran.calls})
    return Report(
        front=front,
        instance_count=len(ran.machines),
        seconds=seconds,
        request_count=len(ran.calls),
        outcomes={verdict.value: outcomes[verdict] for verdict in Verdict},
        goodput=len(completed) / seconds,
        output_tokens_per_s=sum(call.arrival.output_tokens for call in completed) / seconds,
        total=_percentiles([call.ended_s - call.arrival.at_s for call in completed]),
        wait=_percentiles([max(0.0, call.started_s - call.arrival.at_s) for call in completed]),
        first_token=_percentiles([_first_s(call) for call in completed]),
        utilisation=Share(
            busy=sum(time.busy_s for time in times) / wall_s,
            load=sum(time.load_s for time in times) / wall_s,
            idle=sum(time.idle_s for time in times) / wall_s,
        ),
        slots_used=sum(span.ended_s - span.began_s for books in ran.machines for span in books.spans)
        / max(ran.ended_s * sum(books.slots for books in ran.machines), 1e-9),
        loads={cause: count for cause, count in sorted(ran.loads.items()) if count},
        fairness=jain([had[tenant] / weights.get(tenant, 1.0) for tenant in tenants]),
        tenant_count=len(tenants),
    )


def jain(values: Sequence[float]) -> float:
    """Return Jain's index: 1 if all are equal."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def table(reports: Sequence[Report]) -> list[str]:
    """Return a column for each report, with a row for each figure."""
    causes = sorted({cause for one in reports for cause in one.loads})
    rows: list[tuple[str, list[str]]] = [
        ("", [one.front for one in reports]),
        ("instances", [str(one.instance_count) for one in reports]),
        ("requests", [f"{one.request_count:,}" for one in reports]),
    ]
    for verdict in Verdict:
        if any(one.outcomes[verdict] for one in reports):
            name = verdict.replace("_", " ")
            rows.append((f"  {name}", [_part(one.outcomes[verdict], one.request_count) for one in reports]))
    rows.append(("goodput, requests/s", [f"{one.goodput:.2f}" for one in reports]))
    rows.append(("output, tokens/s", [f"{one.output_tokens_per_s:,.0f}" for one in reports]))
    for title, name in (("total", "total"), ("wait", "wait"), ("first token", "first_token")):
        found = [getattr(one, name) for one in reports]
        rows.append((f"{title}, s: p50 / p95 / p99", [_three(percentiles) for percentiles in found]))
    rows.append(
        (
            "GPU busy / loading / idle",
            [
                f"{one.utilisation.busy:.1%} / {one.utilisation.load:.1%} / {one.utilisation.idle:.1%}"
                for one in reports
            ],
        )
    )
    rows.append(("slots used", [f"{one.slots_used:.1%}" for one in reports]))
    rows.extend((f"loads: {cause}", [str(one.loads.get(cause, 0)) for one in reports]) for cause in causes)
    rows.append(("fairness (Jain)", [f"{one.fairness:.3f} ({one.tenant_count} tenants)" for one in reports]))
    return aligned([[title, *cells] for title, cells in rows])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _percentiles(values: list[float]) -> Percentiles:
    values.sort()
    return Percentiles(p50_s=_at(values, 0.5), p95_s=_at(values, 0.95), p99_s=_at(values, 0.99))


def _at(ordered: Sequence[float], share: float) -> float:
    """Return the nearest rank: the smallest value that so many are not above."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else 0.0


def _first_s(call: Call) -> float:
    """An embedding has no tokens: then, the end."""
    at_s = call.first_token_s if call.first_token_s >= 0 else call.ended_s
    return at_s - call.arrival.at_s


def _part(count: int, of: int) -> str:
    return f"{count:,} ({count / max(1, of):.1%})"


def _three(percentiles: Percentiles) -> str:
    return f"{percentiles.p50_s:.2f} / {percentiles.p95_s:.2f} / {percentiles.p99_s:.2f}"
