"""However many names are served, a metric stays as large as its bound."""

import secrets

from prometheus_client import CollectorRegistry, Counter, Histogram

from services.common.metrics.few import Few, folded

LABELS = ("operation", "gen_ai_request_model", "error_type")


def _metric(children_max: int) -> tuple[CollectorRegistry, Few[Counter]]:
    registry = CollectorRegistry()
    return registry, Few(
        Counter("calls", "Calls", LABELS, registry=registry), LABELS, children_max=children_max
    )


def _count(registry: CollectorRegistry, *values: str) -> float | None:
    return registry.get_sample_value("calls_total", dict(zip(LABELS, values, strict=True)))


def _series(registry: CollectorRegistry) -> int:
    return sum(sample.name == "calls_total" for metric in registry.collect() for sample in metric.samples)


def test_the_first_are_told_apart_and_later_ones_are_added_up() -> None:
    registry, calls = _metric(2)
    for model in ("one", "two", "three", "four", "one"):
        calls.labels("chat", model, "").inc()
    assert _count(registry, "chat", "one", "") == 2
    assert _count(registry, "chat", "two", "") == 1
    assert _count(registry, "chat", "other", "") == 2
    assert _series(registry) == 3


def test_nothing_is_lost_and_nothing_grows() -> None:
    registry, calls = _metric(8)
    for number in range(3000):
        calls.labels(("chat", "embed")[number % 2], secrets.token_hex(4), secrets.token_hex(4)).inc()
    assert _series(registry) <= 8 + 2
    total = sum(
        sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "calls_total"
    )
    assert total == 3000


def test_success_and_leaving_stay_apart_from_errors() -> None:
    assert folded(LABELS, ("chat", "tiny", "")) == ("chat", "other", "")
    assert folded(LABELS, ("chat", "tiny", "CANCELLED")) == ("chat", "other", "CANCELLED")
    assert folded(LABELS, ("chat", "tiny", "QUEUE_FULL")) == ("chat", "other", "_OTHER")


def test_a_series_that_is_known_is_the_same_object() -> None:
    registry = CollectorRegistry()
    seen = Few(Histogram("seen", "Seen", ("model",), registry=registry), ("model",), children_max=1)
    assert seen.labels("one") is seen.labels("one")
    assert seen.labels("two") is seen.labels("three")
