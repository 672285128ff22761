"""Alerts: rules and Alertmanager's configuration as their own programs see them, each alert tested to fire and to keep quiet, what
rules ask for measured by somebody.
"""

from collections.abc import Iterator
from pathlib import Path

from deploy.check.outcome import Skipped
from deploy.check.tools import complaints, ran
from deploy.prometheus.files import FOLDER, RULES, SLO_RULES, SLOS, TESTS
from deploy.prometheus.known_metrics import problems as metric_problems
from deploy.prometheus.rule_checks import form_problems, slo_problems, tests_problems
from deploy.prometheus.rule_files import read_rules, read_tests
from tools.metrics_catalogue import catalogue
from tools.prometheus import folder, missing

PROGRAMS = ("promtool", "amtool")


def check() -> list[str]:
    programs = folder()
    if lacking := missing(programs, PROGRAMS):
        raise Skipped(f"{programs} lacks {' and '.join(lacking)}; run `make prometheus`")
    return [*written(), *by_promtool(programs), *by_amtool(programs)]


def written() -> list[str]:
    """What is looked at without Prometheus' own programs."""
    rules = read_rules()
    return [
        *form_problems(rules.alerts),
        *tests_problems(rules.alerts, read_tests()),
        *slo_problems(SLOS, SLO_RULES),
        *metric_problems(rules.expressions, catalogue(), rules.recorded),
    ]


def by_promtool(programs: Path) -> Iterator[str]:
    promtool = programs / "promtool"
    yield from complaints(ran(promtool, "check", "config", FOLDER / "prometheus.yml"), "prometheus.yml")
    yield from complaints(ran(promtool, "check", "rules", "--lint-fatal", *_yaml(RULES)), "rules")
    yield from complaints(ran(promtool, "test", "rules", *_yaml(TESTS)), "tests")


def by_amtool(programs: Path) -> Iterator[str]:
    configuration = FOLDER / "alertmanager.yml"
    yield from complaints(ran(programs / "amtool", "check-config", configuration), configuration.name)


def routed(programs: Path, **labels: str) -> str:
    """The receiver to whom an alert with these labels goes."""
    given = [f"{name}={value}" for name, value in labels.items()]
    configuration = f"--config.file={FOLDER / 'alertmanager.yml'}"
    return ran(programs / "amtool", "config", "routes", "test", configuration, *given).stdout.strip()


def _yaml(place: Path) -> list[Path]:
    return sorted(place.glob("*.yml"))
