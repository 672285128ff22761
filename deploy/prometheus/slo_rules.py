"""Makes rules of objectives: multi-window, multi-burn-rate alerts as in Google's SRE workbook, chapter 5.

An alert fires while the budget burns at a rate in a long window, so that it is worth waking somebody, and in a short one, so that it
ends soon after the trouble does. The pages are those of the workbook: 2 % of a month's budget within an hour, 5 % within six; the
tickets 10 % within a day, and within three.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

RUNBOOKS = "https://ollamesh.example/runbooks"
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d", "30d")
HOURS = {"1h": 1, "6h": 6, "1d": 24, "3d": 72}
PERCENT = 100.0


@dataclass(frozen=True, slots=True)
class Burn:
    """A rate at which the budget must not burn, in both windows."""

    long: str
    short: str
    rate: float


@dataclass(frozen=True, slots=True)
class Speed:
    """An alert: any of its burns fires it."""

    suffix: str
    severity: str
    holds: str
    burns: tuple[Burn, ...]


FAST = Speed("BurnFast", "page", "2m", (Burn("1h", "5m", 14.4), Burn("6h", "30m", 6)))
SLOW = Speed("BurnSlow", "ticket", "15m", (Burn("1d", "2h", 3), Burn("3d", "6h", 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    name: str
    alert: str
    area: str
    page: str  # Of the runbooks.
    objective_percent: float
    events_min: int
    what: str  # The bad events, as a noun.
    bad: str
    total: str

    @property
    def budget(self) -> float:
        """The share of events that may be bad."""
        return round(1 - self.objective_percent / PERCENT, 6)


def read(text: str) -> Sequence[Slo]:
    return [Slo(**fields) for fields in yaml.safe_load(text)["slos"]]


def rules(slos: Sequence[Slo]) -> str:
    """The rule file, as text."""
    groups = [group for slo in slos for group in _groups(slo)]
    head = "# Made of slos.yml by `python -m deploy.prometheus`: change it there.\n"
    return head + yaml.dump({"groups": groups}, Dumper=_Dumper, sort_keys=False, width=130)


class _Dumper(yaml.SafeDumper):
    """Expressions are read as they are written: as blocks, not as quoted lines."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _groups(slo: Slo) -> Iterator[Mapping[str, Any]]:
    """Long windows change slowly, and cost more to look at."""
    short = [window for window in WINDOWS if not window.endswith("d")]
    long = [window for window in WINDOWS if window.endswith("d")]
    yield {"name": f"slo-{slo.name}", "interval": "30s", "rules": [_ratio(slo, window) for window in short]}
    yield {
        "name": f"slo-{slo.name}-days",
        "interval": "5m",
        "rules": [*(_ratio(slo, window) for window in long), _remaining(slo)],
    }
    yield {"name": f"slo-{slo.name}-alerts", "rules": [_alert(slo, speed) for speed in (FAST, SLOW)]}


def _ratio(slo: Slo, window: str) -> Mapping[str, Any]:
    bad, total = (text.replace("WINDOW", window) for text in (slo.bad, slo.total))
    return {
        "record": f"slo:errors:ratio_{window}",
        "expr": f"(\n{bad}\n)\n/\n(\n{total}\n)",
        "labels": {"slo": slo.name},
    }


def _remaining(slo: Slo) -> Mapping[str, Any]:
    """1 is all of the month's budget, 0 none, below 0 more than there was."""
    return {
        "record": "slo:error_budget:remaining",
        "expr": f'1 - slo:errors:ratio_30d{{slo="{slo.name}"}} / {slo.budget:g}',
        "labels": {"slo": slo.name},
    }


def _alert(slo: Slo, speed: Speed) -> Mapping[str, Any]:
    conditions = "\nor\n".join(_burns(slo, burn) for burn in speed.burns)
    return {
        "alert": slo.alert + speed.suffix,
        "expr": conditions,
        "for": speed.holds,
        "labels": {"severity": speed.severity, "area": slo.area, "slo": slo.name},
        "annotations": {
            "summary": f"The error budget of {slo.name} burns {_pace(speed)}.",
            "description": (
                f"{{{{ $value | humanizePercentage }}}} are {slo.what}; "
                f"{slo.budget * PERCENT:g} % are allowed over 30 days."
            ),
            "runbook_url": f"{RUNBOOKS}/{slo.page}.md",
        },
    }


def _pace(speed: Speed) -> str:
    return "fast: at this rate it is gone in days" if speed is FAST else "faster than it may"


def _burns(slo: Slo, burn: Burn) -> str:
    """Both windows are over the rate, and the long one has seen enough to say so."""
    bound = f"{burn.rate * slo.budget:.6g}"
    of = f'{{slo="{slo.name}"}}'
    events_per_s = slo.events_min / (HOURS[burn.long] * 3600)
    total = slo.total.replace("WINDOW", burn.long)
    return (
        f"(\n  slo:errors:ratio_{burn.long}{of} > {bound}\n"
        f"  and slo:errors:ratio_{burn.short}{of} > {bound}\n"
        f"  and on() (\n{_indented(total)}\n  ) >= {events_per_s:.4g}\n)"
    )


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
