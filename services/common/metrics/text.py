"""Metrics as text, in the two formats that Prometheus asks for: OpenMetrics, with exemplars, and the plain one.

prometheus_client's own writers put every label together anew for every scrape, which takes five times as long; and what
a scrape takes, streams wait for. Here the part of a line that never changes is kept. A test compares what both write.
"""

import gzip
from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample
from prometheus_client.utils import floatToGoString

OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN = "text/plain; version=0.0.4; charset=utf-8"
KEPT_MAX = 20_000  # Four times what a service may have: then all are forgotten, and learnt again.
GZIP_LEVEL = 1  # The highest makes it a fifth smaller, and takes seven times as long.

# What a family is called, and its type, where the plain format has no word for it.
_PLAIN_NAMES = {"counter": "_total", "info": "_info"}
_PLAIN_TYPES = {"info": "gauge", "stateset": "gauge", "gaugehistogram": "histogram", "unknown": "untyped"}


class Writer:
    """Of one registry. Used by one thread at a time."""

    def __init__(self, registry: Collector) -> None:
        self._registry = registry
        self._kept: dict[tuple[str, ...], str] = {}

    def write(self, *, accept: str, accept_encoding: str) -> tuple[bytes, list[tuple[str, str]]]:
        """Return the text as it was asked for, and the headers that say what it is."""
        is_open = "application/openmetrics-text" in accept
        text = "".join(self._lines(is_open=is_open)).encode()
        headers = [("Content-Type", OPEN_METRICS if is_open else PLAIN)]
        if "gzip" in accept_encoding:
            return gzip.compress(text, GZIP_LEVEL), [*headers, ("Content-Encoding", "gzip")]
        return text, headers

    def _lines(self, *, is_open: bool) -> Iterable[str]:
        if len(self._kept) > KEPT_MAX:
            self._kept.clear()
        for metric in self._registry.collect():
            yield from _heading(metric, is_open=is_open)
            for sample in metric.samples:
                value = sample.value
                # Of what is infinite or no number, the difference is no number.
                number = repr(float(value)) if value - value == 0 else _go(value)
                exemplar = _exemplar(sample.exemplar) if is_open and sample.exemplar else ""
                yield f"{self._prefix(sample)}{number}{exemplar}\n"
        if is_open:
            yield "# EOF\n"

    def _prefix(self, sample: Sample) -> str:
        key = (sample.name, *sample.labels.values())
        prefix = self._kept.get(key)
        if prefix is None:
            labels = _labels(sample.labels) if sample.labels else ""
            prefix = self._kept[key] = f"{sample.name}{labels} "
        return prefix


def _heading(metric: Metric, *, is_open: bool) -> Iterable[str]:
    name, kind = metric.name, metric.type
    meaning = metric.documentation.replace("\\", r"\\").replace("\n", r"\n")
    if is_open:
        meaning = meaning.replace('"', r"\"")
    else:
        name, kind = f"{name}{_PLAIN_NAMES.get(kind, '')}", _PLAIN_TYPES.get(kind, kind)
    return (f"# HELP {name} {meaning}\n", f"# TYPE {name} {kind}\n")


def _labels(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in sorted(labels.items())) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _exemplar(exemplar: Exemplar) -> str:
    at = "" if exemplar.timestamp is None else f" {exemplar.timestamp}"
    return f" # {_labels(exemplar.labels)} {_go(exemplar.value)}{at}"


def _go(value: float) -> str:
    written: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return written
