"""What can be wrong with rules beyond what promtool finds: each check yields sentences."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from deploy.prometheus.rule_files import Alert, Shown
from deploy.prometheus.slo_rules import RUNBOOKS, read, rules

SEVERITIES = ("page", "ticket", "none")
AREAS = (
    *("services", "edge", "auth", "agent", "inference", "sandbox"),
    *("stores", "backup", "gpu", "host", "monitoring"),
)
# It fires whatever is the matter, so nothing could keep it quiet.
ALWAYS = "Watchdog"


def form_problems(alerts: Sequence[Alert]) -> Iterator[str]:
    """Every alert says how bad it is, whose it is, what is the matter, and where to read on."""
    for name, count in Counter(alert.name for alert in alerts).items():
        if count > 1:
            yield f"{name} is there {count} times."
    for alert in alerts:
        place = f"{alert.file}: {alert.name}"
        if alert.labels.get("severity") not in SEVERITIES:
            yield f"{place} has no severity of {', '.join(SEVERITIES)}."
        if alert.labels.get("area") not in AREAS:
            yield f"{place} has no area of {', '.join(AREAS)}."
        for annotation in ("summary", "description"):
            if not alert.annotations.get(annotation, "").endswith("."):
                yield f"{place}: its {annotation} is no sentence."
        if page_of(alert) is None:
            yield f"{place}: its runbook_url is not {RUNBOOKS}/PAGE.md."


def page_of(alert: Alert) -> str | None:
    """The name of its runbook's page."""
    url = alert.annotations.get("runbook_url", "")
    if not (url.startswith(f"{RUNBOOKS}/") and url.endswith(".md")):
        return None
    return url.removeprefix(f"{RUNBOOKS}/").removesuffix(".md")


def tests_problems(alerts: Sequence[Alert], tested: Mapping[str, Shown]) -> Iterator[str]:
    """Each alert is shown to fire, and to keep quiet; no test is about one that is gone."""
    for alert in alerts:
        shown = tested.get(alert.name, Shown())
        if not shown.fires:
            yield f"{alert.name} has no test in deploy/prometheus/tests that fires it."
        if not shown.keeps_quiet and alert.name != ALWAYS:
            yield f"{alert.name} has no test in deploy/prometheus/tests that keeps it quiet."
    for name in sorted(tested.keys() - {alert.name for alert in alerts}):
        yield f"A test is about {name}, which is no alert."


def slo_problems(slos: Path, made: Path) -> Iterator[str]:
    if rules(read(slos.read_text())) != made.read_text():
        yield f"{made.name} is not what {slos.name} says: run `python -m deploy.prometheus`."
