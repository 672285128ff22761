"""Counts of several processes as one."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.samples import Exemplar

from services.common.merging import lasting, merged

AMOUNTS = st.lists(st.integers(0, 100), min_size=1, max_size=5)


def process(*amounts: float) -> list[Metric]:
    """What a process shows that has seen these amounts."""
    registry = CollectorRegistry()
    counter = Counter("seen", "Seen", ("kind",), registry=registry)
    histogram = Histogram("size", "Sizes", buckets=(10, 50), registry=registry)
    gauge = Gauge("open", "Open", registry=registry)
    for amount in amounts:
        counter.labels("even" if amount % 2 == 0 else "odd").inc(amount)
        histogram.observe(amount)
        gauge.inc(amount)
    return list(registry.collect())


def values(metrics: list[Metric]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in metrics
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }


@given(st.lists(AMOUNTS, min_size=1, max_size=4))
def test_the_sum_is_what_one_process_would_show(parts: list[list[int]]) -> None:
    whole = process(*(amount for part in parts for amount in part))
    assert values(merged(process(*part) for part in parts)) == values(whole)


@given(AMOUNTS, AMOUNTS, AMOUNTS)
def test_in_whatever_order_and_however_grouped(one: list[int], two: list[int], three: list[int]) -> None:
    a, b, c = process(*one), process(*two), process(*three)
    assert values(merged((merged((a, b)), c))) == values(merged((c, merged((b, a)))))


def test_what_was_counted_outlives_its_process_and_a_state_does_not() -> None:
    assert {metric.name for metric in lasting(process(1))} == {"seen", "size"}


def test_of_what_must_hold_for_all_the_least_counts() -> None:
    def process(ready: float, began_s: float, heard_s: float) -> list[Metric]:
        registry = CollectorRegistry()
        for name, value in (
            ("ollamesh_ready", ready),
            ("process_start_time_seconds", began_s),
            ("ollamesh_revocations_timestamp_seconds", heard_s),
            ("ollamesh_instance_ready", 1),
        ):
            Gauge(name, name, registry=registry).set(value)
        return list(registry.collect())

    found = merged((process(1, 200, 300), process(0, 100, 400)))
    assert [metric.samples[0].value for metric in found] == [0, 100, 300, 2]


def test_of_exemplars_the_latest_is_kept() -> None:
    def seen(trace: str, at_s: float) -> Metric:
        metric = Metric("seen", "Seen", "counter")
        metric.add_sample("seen_total", {}, 1.0, exemplar=Exemplar({"trace_id": trace}, 1.0, at_s))
        return metric

    for order in ([seen("old", 1.0), seen("new", 2.0)], [seen("new", 2.0), seen("old", 1.0)]):
        (metric,) = merged([[each] for each in order])
        (sample,) = metric.samples
        assert sample.value == 2.0
        assert sample.exemplar is not None
        assert sample.exemplar.labels == {"trace_id": "new"}


def test_what_is_information_is_not_added() -> None:
    registry = CollectorRegistry()
    Info("build", "Build", registry=registry).info({"version": "1"})
    (metric,) = merged((registry.collect(), registry.collect()))
    assert [sample.value for sample in metric.samples] == [1.0]


def test_it_can_be_exposed() -> None:
    class View:
        def collect(self) -> list[Metric]:
            return merged((process(1, 2), process(3)))

    registry = CollectorRegistry()
    registry.register(View())
    assert b'seen_total{kind="odd"} 4.0' in generate_latest(registry)
