"""What a benchmark found: a table for people, JSON for machines.

Machines are shared and noisy, so a figure is worth something beside a baseline of the same run: give
both, and let the ratio speak. A goal that does not hold is printed as such and is no error.
"""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / ".ollamesh" / "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured value. `goal` is what it should not exceed, in the same unit."""

    name: str
    value: float
    unit: str
    baseline: float | None = None
    goal: float | None = None

    @property
    def ratio(self) -> float | None:
        return self.value / self.baseline if self.baseline else None

    @property
    def holds(self) -> bool | None:
        return None if self.goal is None else self.value <= self.goal


def report(name: str, *, rounds: int, figures: Sequence[Figure]) -> Path:
    """Print the table, write `NAME.json`, return its path."""
    print(f"\n| {name} ({rounds} rounds) | value | baseline | ratio | goal | holds |")
    print("|---|---:|---:|---:|---:|---|")
    for figure in figures:
        cells = (figure.name, _number(figure.value, figure.unit), _number(figure.baseline, figure.unit))
        verdict = {None: "", True: "yes", False: "NO"}[figure.holds]
        ratio, goal = _number(figure.ratio, "x"), _number(figure.goal, figure.unit)
        print(f"| {' | '.join((*cells, ratio, goal, verdict))} |")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    rows = [{**asdict(figure), "ratio": figure.ratio, "holds": figure.holds} for figure in figures]
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(
        json.dumps(
            {"name": name, "commit": commit.stdout.strip(), "rounds": rounds, "figures": rows}, indent=1
        )
    )
    return path


def percentile(values: Sequence[float], percent: int) -> float:
    """The `percent`th percentile of at least two values."""
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.3g} {unit}"
