"""A run as pictures: how latencies are spread, and what happened when."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.load.figures import by_kind
from tests.load.record import OK, Answer, Record
from tests.load.schedule import Kind

# Okabe and Ito's, which people tell apart whatever colours they see.
COLOURS: Mapping[Kind, str] = {
    "chat": "#0072B2",
    "cached": "#009E73",
    "embed": "#E69F00",
    "run": "#CC79A7",
    "batch": "#666666",
}
FAILED = "#D55E00"


def draw(record: Record, folder: Path, *, title: str) -> list[Path]:
    """Write the pictures; return where."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _spreads(record, folder / "latency.png", title),
        _over_time(record, folder / "timeline.png", title),
    ]


def _spreads(record: Record, path: Path, title: str) -> Path:
    figure, (first, total) = _figure(1, 2, title)
    for kind, answers in by_kind(record.answers).items():
        well = [answer for answer in answers if answer.verdict == OK]
        firsts = [first_s for answer in well if (first_s := answer.first_after_s) is not None]
        _cumulative(first, firsts, kind)
        _cumulative(total, [answer.total_s for answer in well], kind)
    for axes, name in ((first, "First token"), (total, "Whole answer")):
        axes.set_title(name)
        axes.set_xlabel("seconds since it should have been sent")
        axes.set_ylabel("share of requests answered well")
        axes.set_xscale("log")
        axes.set_ylim(0, 1.02)
        if axes.lines:
            # Below: lines may end in any corner.
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, fontsize="small")
    return _saved(figure, path)


def _over_time(record: Record, path: Path, title: str) -> Path:
    figure, (rates, open_now, latencies) = _figure(3, 1, title, size=(11, 10))
    _rates(rates, record.answers)
    open_now.plot(
        *zip(*record.in_flight, strict=True), color="black", linewidth=1
    ) if record.in_flight else None
    open_now.set_ylabel("requests under way")
    open_now.set_ylim(bottom=0)
    for kind, answers in by_kind(record.answers).items():
        well = [answer for answer in answers if answer.verdict == OK]
        points = [(answer.at_s, answer.total_s) for answer in well]
        if points:
            latencies.scatter(*zip(*points, strict=True), s=8, alpha=0.6, color=COLOURS[kind], label=kind)
    failed = [(answer.at_s, max(answer.total_s, 1e-3)) for answer in record.answers if answer.verdict != OK]
    if failed:
        latencies.scatter(*zip(*failed, strict=True), s=24, marker="x", color=FAILED, label="failed")
    latencies.set_yscale("log")
    latencies.set_ylim(top=10 * latencies.get_ylim()[1])  # Likewise.
    latencies.set_ylabel("whole answer, s")
    latencies.set_xlabel("when it should have been sent, s")
    if latencies.collections:
        latencies.legend(loc="upper right", ncols=6, fontsize="small")
    return _saved(figure, path)


def _rates(axes: Any, answers: Sequence[Answer]) -> None:
    """Requests by the second in which they should have been sent, and answers by that in which they ended."""
    if not answers:
        return
    seconds = range(int(max(answer.ended_s for answer in answers)) + 1)
    for label, counted, colour in (
        ("sent", Counter(int(answer.at_s) for answer in answers), "black"),
        (
            "answered well and in time",
            Counter(int(answer.ended_s) for answer in answers if answer.is_good),
            "#009E73",
        ),
        ("failed", Counter(int(answer.ended_s) for answer in answers if answer.verdict != OK), FAILED),
    ):
        axes.step(seconds, [counted[second] for second in seconds], where="post", label=label, color=colour)
    axes.set_ylabel("requests a second")
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])  # Room for the legend.
    axes.legend(loc="upper right", ncols=3, fontsize="small")


def _cumulative(axes: Any, values: Sequence[float], kind: Kind) -> None:
    if not values:
        return
    ordered = sorted(max(value, 1e-4) for value in values)
    shares = [(rank + 1) / len(ordered) for rank in range(len(ordered))]
    label, colour = f"{kind} ({len(ordered)})", COLOURS[kind]
    axes.step([ordered[0], *ordered], [0.0, *shares], where="post", label=label, color=colour)


def _figure(rows: int, columns: int, title: str, size: tuple[float, float] = (11, 5)) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, sharex=rows > 1)
    for own in axes:
        own.grid(visible=True, alpha=0.3)
    figure.suptitle(title, fontsize="medium")
    return figure, axes


def _saved(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=110)
    return path
