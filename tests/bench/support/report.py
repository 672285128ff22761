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
    """One measured value. `goal` is what it should not exceed, in the same unit; `at_least`: not fall below."""

    name: str
    value: float
    unit: str
    baseline: float | None = None
    goal: float | None = None
    at_least: bool = False

    @property
    def ratio(self) -> float | None:
        return self.value / self.baseline if self.baseline else None

    @property
    def holds(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    @property
    def row(self) -> dict[str, object]:
        """Return it as it stands in the file."""
        values = asdict(self)
        del values["at_least"]
        return {**values, "ratio": self.ratio, "holds": self.holds}


def report(name: str, *, rounds: int, figures: Sequence[Figure], remarks: Sequence[str] = ()) -> Path:
    """Print the table and what else is to be known, write `NAME.json`, return its path."""
    print(f"\n| {name} ({rounds} rounds) | value | baseline | ratio | goal | holds |")
    print("|---|---:|---:|---:|---:|---|")
    for figure in figures:
        cells = (figure.name, _number(figure.value, figure.unit), _number(figure.baseline, figure.unit))
        verdict = {None: "", True: "yes", False: "NO"}[figure.holds]
        ratio, goal = _number(figure.ratio, "x"), _number(figure.goal, figure.unit)
        if goal:
            goal = f"{'>=' if figure.at_least else '<='} {goal}"
        print(f"| {' | '.join((*cells, ratio, goal, verdict))} |")
    for remark in remarks:
        print(f"\n{remark}")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    rows = [figure.row for figure in figures]
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
    return "" if value is None else _digits(value) + f" {unit}"


def _digits(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"  # No exponents.
