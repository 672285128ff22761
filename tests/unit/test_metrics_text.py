"""What is written is what prometheus_client would write, in both formats, and its parsers read it."""

import gzip
import math
from collections.abc import Callable, Iterable

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_open
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from services.common.metrics import text as metrics_text
from services.common.metrics.text import OPEN_METRICS, PLAIN, Writer
from tests.unit.metrics_rig import driven

OPEN = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


def odd_ones() -> CollectorRegistry:
    registry = CollectorRegistry()
    Info("build", "A \\ backslash,\na line", registry=registry).info({"version": 'x"y\\z\n'})
    calls = Counter("calls", 'Said "so"', ("b", "a"), registry=registry)
    calls.labels('"', "\\").inc(1e300, exemplar={"trace_id": "0af7651916cd43dd8448eb211c80319c"})
    calls.labels("ü", "\n").inc(3)
    took = Histogram("took_seconds", "Took", ("x",), buckets=(0.1, 1e6), registry=registry)
    took.labels("y").observe(0.05, exemplar={"trace_id": "b7ad6b7169203331", "span_id": "z"})
    odd = Gauge("odd", "Odd", ("kind",), registry=registry)
    for value in (math.inf, -math.inf, math.nan, -0.0, 1e-300, 12345678901234567890):
        odd.labels(str(value)).set(value)
    Gauge("none", "Without any", ("kind",), registry=registry)
    return registry


def told(parse: Callable[[str], Iterable[Metric]], text: bytes) -> list[str]:
    return [repr(family) for family in parse(text.decode())]


@pytest.mark.parametrize("service", ["odd", "agent", "inference"])
async def test_it_writes_what_the_library_writes(service: str) -> None:
    registry = odd_ones() if service == "odd" else await driven(service)
    families = list(registry.collect())  # At one moment: some change by being asked.

    class Frozen(CollectorRegistry):
        def collect(self) -> Iterable[Metric]:
            return iter(families)

    frozen = Frozen()
    writer = Writer(frozen)
    for _ in range(2):  # The second time from what was kept.
        plain, headers = writer.write(accept="", accept_encoding="")
        assert told(parse_plain, plain) == told(parse_plain, generate_latest(frozen))
        assert headers == [("Content-Type", PLAIN)]
        opened, headers = writer.write(accept=OPEN, accept_encoding="")
        assert told(parse_open, opened) == told(parse_open, generate_open(frozen))  # type: ignore[no-untyped-call]
        assert headers == [("Content-Type", OPEN_METRICS)]


def test_it_is_made_smaller_where_that_is_wanted() -> None:
    writer = Writer(odd_ones())
    plain, _ = writer.write(accept="", accept_encoding="")
    small, headers = writer.write(accept="", accept_encoding="br, gzip")
    assert gzip.decompress(small) == plain
    assert ("Content-Encoding", "gzip") in headers


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_text, "KEPT_MAX", 5)
    registry = CollectorRegistry()
    gauge = Gauge("g", "G", ("x",), registry=registry)
    writer = Writer(registry)
    for number in range(100):
        gauge.clear()
        gauge.labels(str(number)).set(1)
        assert f'g{{x="{number}"}} 1.0' in writer.write(accept="", accept_encoding="")[0].decode()
        assert len(writer._kept) <= 7
