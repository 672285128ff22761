"""The figures as pictures: how delays are spread, how far each target climbed, and memory over time.

Matplotlib is imported where it draws: a benchmark that only measures need not wait for it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.plane.ladder import LIMIT_S, Climb
from tests.bench.plane.paced import Rounds
from tests.bench.support.load import Spread
from tests.bench.support.report import RESULTS

SOAK_SAMPLES = RESULTS / "soak-samples.json"
Points = Sequence[tuple[float, float]]


def spreads(rounds: Rounds, *, folder: Path = RESULTS) -> list[Path]:
    """Draw how first tokens and tokens' ways are spread, by target."""
    first = {
        name: merged([sample.outcome.first_token_s for sample in samples])
        for name, samples in rounds.samples.items()
    }
    way = {
        name: merged([sample.outcome.token_way_s for sample in samples])
        for name, samples in rounds.samples.items()
    }
    return [
        _cumulative(first, "From a request's intended start to its first token", folder / "first-token.png"),
        _cumulative(way, "From a token's being sent to its arrival", folder / "token-way.png"),
    ]


def merged(rounds: Iterable[Spread]) -> Points:
    """Return (seconds, share) points: of each quantile, the median over rounds."""
    by_share: dict[float, list[float]] = {}
    for spread in rounds:
        for share, value_s in spread.cdf:
            by_share.setdefault(share, []).append(value_s)
    return [(median(values), share) for share, values in sorted(by_share.items())]


def ladder(climbs: Mapping[str, Sequence[Climb]], *, folder: Path = RESULTS) -> Path:
    """Draw how tokens bunch as streams are added, by target."""
    figure, axes = _axes("Streams of 50 tokens/s", "p99 between tokens, ms")
    for name, some in climbs.items():
        by_streams: dict[int, list[float]] = {}
        for rung in (rung for climb in some for rung in climb.rungs):
            by_streams.setdefault(rung.streams, []).append(rung.interval_p99_s)
        points = [(streams, median(values) * 1e3) for streams, values in sorted(by_streams.items())]
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.axhline(LIMIT_S * 1e3, color="grey", linestyle="--", label="twice the interval")
    axes.set_xscale("log")
    axes.set_yscale("log")
    return _saved(figure, axes, "Streams until tokens bunch", folder / "ladder.png")


def memory(samples: Path = SOAK_SAMPLES, *, folder: Path = RESULTS) -> Path | None:
    """Draw the memory that the last soak saw, if there was one."""
    if not samples.exists():
        return None
    rows = json.loads(samples.read_text())["samples"]
    minutes = [(row["at_s"] - rows[0]["at_s"]) / 60 for row in rows]
    figure, axes = _axes("Minutes", "Memory of the gateway, MB")
    axes.plot(minutes, [row["rss_bytes"] / 1e6 for row in rows], label="resident")
    axes.plot(minutes, [row["anonymous_bytes"] / 1e6 for row in rows], label="of that, anonymous")
    axes.set_ylim(bottom=0)
    return _saved(figure, axes, "200 streams, 20 % of them cancelled", folder / "memory.png")


def _cumulative(points: Mapping[str, Points], title: str, path: Path) -> Path:
    figure, axes = _axes("ms", "share of samples")
    for name, some in points.items():
        axes.plot([max(value_s, 1e-6) * 1e3 for value_s, _ in some], [share for _, share in some], label=name)
    axes.set_xscale("log")
    return _saved(figure, axes, title, path)


def _axes(x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(8, 5), layout="constrained")
    axes = drawing.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=True, alpha=0.3)
    return drawing, axes


def _saved(drawing: Any, axes: Any, title: str, path: Path) -> Path:
    axes.set_title(title)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=120)
    return path
