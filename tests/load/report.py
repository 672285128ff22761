"""What a run came to, for people and for machines: a table, report.md, report.json."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.load.figures import Summary, lateness, summaries, void
from tests.load.record import Record
from tests.load.schedule import Kind

HEADINGS = (
    "kind", "sent", "good", "good/s", "first p50", "p90", "p99", "total p50", "p90", "p99", "failed"
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What was asked for, to be read beside what came of it."""

    target: str
    seconds: float
    rate: float
    mix: Mapping[Kind, float]
    seed: int
    machine: str


def lines(run: Run, record: Record) -> Iterator[str]:
    """The report as Markdown, which is also what the terminal shows."""
    yield f"# Load: {run.target}"
    yield ""
    yield (
        f"{run.seconds:g} s of requests at fixed times (open loop, seed {run.seed}), rate {run.rate:g}: "
        + ", ".join(f"{kind} {own * run.rate:g}/s" for kind, own in run.mix.items())
        + f". {run.machine}."
    )
    yield "Seconds, from when a request should have been sent; of those that were answered well."
    yield ""
    yield from _table(HEADINGS, [_row(summary) for summary in summaries(record, seconds=run.seconds)])
    yield ""
    yield from _remarks(record)
    if record.parts:
        yield ""
        yield from _costs(record)


def write(folder: Path, run: Run, record: Record) -> None:
    """Write report.md and report.json into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines(run, record))
    pictures = "\n".join(f"![{name}]({name}.png)" for name in ("latency", "timeline"))
    (folder / "report.md").write_text(f"{text}\n\n{pictures}\n")
    found = {
        "run": asdict(run),
        "void": void(record),
        "generator": {"late": asdict(lateness(record)), "cpu_s": record.cpu_s, "wall_s": record.wall_s},
        "kinds": [asdict(summary) for summary in summaries(record, seconds=run.seconds)],
        "parts": {name: asdict(cost) for name, cost in record.parts.items()},
    }
    (folder / "report.json").write_text(json.dumps(found, indent=1) + "\n")


def _row(summary: Summary) -> Sequence[str]:
    failures = ", ".join(f"{reason} {count}" for reason, count in summary.failures.items())
    return (
        summary.name,
        str(summary.sent_count),
        f"{summary.good_share:.1%}",
        f"{summary.good_per_s:.2f}",
        *_times(summary.first.count, summary.first.p50_s, summary.first.p90_s, summary.first.p99_s),
        *_times(summary.total.count, summary.total.p50_s, summary.total.p90_s, summary.total.p99_s),
        failures or "-",
    )


def _times(count: int, *values_s: float) -> Sequence[str]:
    return tuple(f"{value_s:.3f}" if count else "-" for value_s in values_s)


def _remarks(record: Record) -> Iterator[str]:
    late = lateness(record)
    yield (
        f"The generator sent half of its requests within {late.p50_s * 1e3:.1f} ms of their time and 99 % within "
        f"{late.p99_s * 1e3:.1f} ms; it took {record.cpu_s:.1f} s of processor time in {record.wall_s:.1f} s."
    )
    if (reason := void(record)) is not None:
        yield f"**These figures are void**: {reason}."


def _costs(record: Record) -> Iterator[str]:
    rows = [
        (name, f"{cost.cpu_s:.1f}", f"{cost.cpu_s / record.wall_s:.2f}", f"{cost.memory_max_bytes / 1e6:.0f}")
        for name, cost in sorted(record.parts.items())
    ]
    yield from _table(("part", "processor s", "processors", "memory, most, MB"), rows)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings))]
    for number, row in enumerate((headings, *rows)):
        cells = (
            cell.ljust(width) if not at else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield f"| {' | '.join(cells)} |"
        if number == 0:
            dashes = ("-" * width if not at else "-" * (width - 1) + ":" for at, width in enumerate(widths))
            yield f"| {' | '.join(dashes)} |"
