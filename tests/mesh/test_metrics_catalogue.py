"""docs/metrics.md is what a whole stack publishes: nothing more, nothing less, and nothing else."""

import re

import pytest
from prometheus_client import Metric

from deploy.local.settings import Settings
from tests.mesh.scraping import scraped, series_count
from tools.metrics_catalogue import SERVICES, catalogue

SERIES_MAX = 5000
UNIT = re.compile(r"_(seconds|bytes|celsius|watts|ratio|total|info)$")
# Counts of what there is have no unit; and two are named by others than us.
COUNTS = re.compile(r"^(ollamesh|agent|process|gen_ai|python)_")


@pytest.fixture(scope="module")
def published(mesh: Settings) -> dict[str, dict[str, Metric]]:
    return {service: dict(metrics) for service, metrics in scraped(mesh).items()}


def test_what_is_published_is_documented(published: dict[str, dict[str, Metric]]) -> None:
    known = catalogue()
    for service, metrics in published.items():
        for name, metric in metrics.items():
            assert name in known, f"{service} publishes {name}, which docs/metrics.md does not know"
            entry = known[name]
            assert service in entry.services, name
            assert metric.type == entry.type, name
            assert metric.documentation == entry.meaning, name
            for sample in metric.samples:
                assert set(sample.labels) - {"le"} == entry.labels, name


def test_what_is_documented_is_published(published: dict[str, dict[str, Metric]]) -> None:
    for entry in catalogue().values():
        for service in entry.services:
            if not entry.is_conditional:
                assert entry.name in published[service], f"{service} does not publish {entry.name}"


def test_names_are_as_prometheus_wants_them() -> None:
    for entry in catalogue().values():
        assert COUNTS.match(entry.name), entry.name
        assert (entry.type == "counter") == entry.name.endswith("_total"), entry.name
        if entry.type == "histogram":
            assert UNIT.search(entry.name) or entry.name.startswith("gen_ai_"), entry.name
        assert entry.services <= set(SERVICES)


def test_there_are_few_series(published: dict[str, dict[str, Metric]]) -> None:
    for service, metrics in published.items():
        assert series_count(metrics) <= SERIES_MAX / 2, service


def test_nothing_was_taken_out_of_a_log(published: dict[str, dict[str, Metric]]) -> None:
    """Whatever the tests before this one did: nobody logs what looks like a secret."""
    for service, metrics in published.items():
        assert metrics["ollamesh_log_redactions_total"].samples[0].value == 0, service
