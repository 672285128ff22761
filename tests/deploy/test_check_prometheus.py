"""The checks of alerts: what is in the tree passes, and each fault that is planted is found."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from deploy.check import prometheus as checked
from deploy.prometheus import known_metrics, rule_checks
from deploy.prometheus.files import RULES, SLO_RULES, SLOS, TESTS
from deploy.prometheus.rule_files import Alert, Shown, read_rules, read_tests
from tools import prometheus as programs
from tools.metrics_catalogue import catalogue

EDGE_DOWN = next(alert for alert in read_rules().alerts if alert.name == "EdgeDown")


@pytest.fixture(scope="module")
def tools() -> Path:
    if lacking := programs.missing(programs.folder(), checked.PROGRAMS):
        pytest.skip(f"`make prometheus` has not brought {', '.join(lacking)}")
    return programs.folder()


def test_what_is_written_is_well_formed_tested_and_measured() -> None:
    assert checked.written() == []


@pytest.mark.timeout(600)  # Thirteen processor seconds, which a busy machine may take minutes for.
def test_promtool_finds_nothing(tools: Path) -> None:
    assert list(checked.by_promtool(tools)) == []


def test_alertmanager_takes_its_configuration_and_tells_whom_it_should(tools: Path) -> None:
    assert list(checked.by_amtool(tools)) == []
    assert checked.routed(tools, alertname="EdgeDown", severity="page") == "pages"
    assert checked.routed(tools, alertname="QueueWaits", severity="ticket") == "tickets"
    assert checked.routed(tools, alertname="Watchdog", severity="none") == "watchdog"


def test_a_threshold_that_moves_fails_a_test(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways: one that fires too late, and one that fires too soon."""
    for before, after in (("< 0.05", "< 0.03"), ("< 0.05", "< 0.07")):
        rules, tests = tmp_path / after[-4:] / "rules", tmp_path / after[-4:] / "tests"
        shutil.copytree(RULES, rules)
        tests.mkdir()
        shutil.copy(TESTS / "host.yml", tests)
        host = rules / "host.yml"
        host.write_text(host.read_text().replace(before, after))
        monkeypatch.setattr(checked, "TESTS", tests)
        assert any("HostDiskFull" in problem for problem in checked.by_promtool(tools))


def test_every_alert_is_tested_both_ways() -> None:
    tested = {**read_tests(), "EdgeDown": Shown(fires=True), "Gone": Shown(fires=True, keeps_quiet=True)}
    assert list(rule_checks.tests_problems([EDGE_DOWN], {"EdgeDown": tested["EdgeDown"]})) == [
        "EdgeDown has no test in deploy/prometheus/tests that keeps it quiet."
    ]
    assert list(rule_checks.tests_problems([EDGE_DOWN], {})) == [
        "EdgeDown has no test in deploy/prometheus/tests that fires it.",
        "EdgeDown has no test in deploy/prometheus/tests that keeps it quiet.",
    ]
    assert list(rule_checks.tests_problems([], {"Gone": tested["Gone"]})) == [
        "A test is about Gone, which is no alert."
    ]


@pytest.mark.parametrize(
    ("alert", "problem"),
    [
        (replace(EDGE_DOWN, labels={"severity": "urgent", "area": "edge"}), "has no severity"),
        (replace(EDGE_DOWN, labels={"severity": "page", "area": "all"}), "has no area"),
        (replace(EDGE_DOWN, annotations={**EDGE_DOWN.annotations, "summary": ""}), "its summary"),
        (
            replace(EDGE_DOWN, annotations={**EDGE_DOWN.annotations, "runbook_url": "edge-down.md"}),
            "its runbook_url",
        ),
    ],
)
def test_an_alert_says_all_that_it_has_to(alert: Alert, problem: str) -> None:
    found = list(rule_checks.form_problems([alert]))
    assert len(found) == 1
    assert problem in found[0]


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("ollamesh_made_up > 1", "ollamesh_made_up is not in docs/metrics.md"),
        ("sum by (colour) (ollamesh_ready)", "ollamesh_ready has no label colour"),
        ('ollamesh_ready{replica="1"} == 0', "ollamesh_ready has no label replica"),
        ("histogram_quantile(0.9, ollamesh_ready_bucket)", "ollamesh_ready_bucket is not in docs/metrics.md"),
    ],
)
def test_a_rule_asks_only_for_what_is_measured(expression: str, problem: str) -> None:
    found = list(known_metrics.problems([expression], catalogue(), frozenset()))
    assert len(found) == 1
    assert problem in found[0]


def test_the_rules_of_objectives_are_what_their_data_say(tmp_path: Path) -> None:
    other = tmp_path / "slos.yml"
    other.write_text(SLOS.read_text().replace("objective_percent: 99.9", "objective_percent: 99.5"))
    assert "run `python -m deploy.prometheus`" in next(rule_checks.slo_problems(other, SLO_RULES))


def test_a_page_burns_two_percent_of_the_budget_in_an_hour() -> None:
    """The rates are the workbook's: 14.4 budgets a month are 2 % within one hour of its 720."""
    rules = yaml.safe_load(SLO_RULES.read_text())["groups"]
    fast = next(
        rule for group in rules for rule in group["rules"] if rule.get("alert") == "EdgeErrorsBurnFast"
    )
    assert 'slo:errors:ratio_1h{slo="edge-availability"} > 0.0144' in fast["expr"]
    assert 'slo:errors:ratio_5m{slo="edge-availability"} > 0.0144' in fast["expr"]
    assert 'slo:errors:ratio_6h{slo="edge-availability"} > 0.006' in fast["expr"]
