"""The rules and their tests, as read from the files that Prometheus and promtool read."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deploy.prometheus.files import RULES, TESTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    name: str
    file: str
    expr: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Rules:
    alerts: Sequence[Alert]
    recorded: frozenset[str]
    expressions: Sequence[str]


@dataclass(slots=True)
class Shown:
    """What tests show of one alert."""

    fires: bool = False
    keeps_quiet: bool = False


def read_rules(folder: Path = RULES) -> Rules:
    rules = list(_rules(folder))
    return Rules(
        alerts=[
            Alert(
                name=rule["alert"],
                file=file,
                expr=rule["expr"],
                labels=rule.get("labels", {}),
                annotations=rule.get("annotations", {}),
            )
            for file, rule in rules
            if "alert" in rule
        ],
        recorded=frozenset(rule["record"] for _, rule in rules if "record" in rule),
        expressions=[rule["expr"] for _, rule in rules],
    )


def _rules(folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for path in sorted(folder.glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                yield path.name, rule


def read_tests(folder: Path = TESTS) -> Mapping[str, Shown]:
    """By the alert's name. A test without series shows nothing."""
    found: defaultdict[str, Shown] = defaultdict(Shown)
    for path in sorted(folder.glob("*.yml")):
        for test in yaml.safe_load(path.read_text())["tests"]:
            for asked in test.get("alert_rule_test", []):
                tested = found[asked["alertname"]]
                if asked["exp_alerts"]:
                    tested.fires = True
                elif test["input_series"]:
                    tested.keeps_quiet = True
    return found
