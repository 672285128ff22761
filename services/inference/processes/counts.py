"""The metrics of all processes as one: what the head's endpoint shows.

Workers tell their samples about once a second. What one had counted stays counted when it is gone, but for what it
had not told yet: at most a second's worth, and nothing if it drained.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar as PrometheusExemplar
from prometheus_client.samples import Sample

from services.common.merging import lasting, merged
from services.common.metrics.few import few
from services.inference.processes.messages import Exemplar, Family
from services.inference.telemetry import CHILDREN_MAX


class AllCounts(Collector):
    """The sum. It is collected by the endpoint's thread, so what that reads is replaced, never changed."""

    def __init__(self, own: CollectorRegistry) -> None:
        self._own = own
        # One tuple, so that whoever reads it sees a process either at work or departed, and never twice or not at all.
        self._parts: tuple[tuple[Metric, ...], tuple[Share, ...]] = ((), ())

    def share(self) -> "Share":
        """Return a new process's part."""
        share, (departed, shares) = Share(self), self._parts
        self._parts = (departed, (*shares, share))
        return share

    @property
    def process_count(self) -> int:
        """How many processes there are beside this one."""
        return len(self._parts[1])

    def collect(self) -> Iterable[Metric]:
        departed, shares = self._parts
        found = merged([self._own.collect(), departed, *(share.latest for share in shares)])
        return [few(metric, CHILDREN_MAX.get(metric.name)) for metric in found]

    def leave(self, share: "Share") -> None:
        departed, shares = self._parts
        if share in shares:
            remaining = tuple(other for other in shares if other is not share)
            self._parts = (tuple(merged((departed, lasting(share.latest)))), remaining)


class Share:
    """What one process has counted."""

    def __init__(self, counts: AllCounts) -> None:
        self._counts = counts
        self.latest: tuple[Metric, ...] = ()

    def update(self, families: Iterable[Family]) -> None:
        self.latest = tuple(map(_metric, families))

    def leave(self) -> None:
        """The process is gone."""
        self._counts.leave(self)


def registry_of(collector: Collector) -> CollectorRegistry:
    """Return what an endpoint publishes."""
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


def families(registry: CollectorRegistry) -> tuple[Family, ...]:
    """Return what a process has counted, to be told."""
    return tuple(map(_family, registry.collect()))


def _family(metric: Metric) -> Family:
    return Family(
        name=metric.name,
        documentation=metric.documentation,
        kind=metric.type,
        unit=metric.unit,
        samples=tuple((one.name, dict(one.labels), one.value, _told(one.exemplar)) for one in metric.samples),
    )


def _told(exemplar: PrometheusExemplar | None) -> Exemplar | None:
    if exemplar is None:
        return None
    at_s = None if exemplar.timestamp is None else float(exemplar.timestamp)
    return Exemplar(labels=dict(exemplar.labels), value=exemplar.value, at_s=at_s)


def _metric(family: Family) -> Metric:
    made = Metric(family.name, family.documentation, family.kind, family.unit)
    made.samples = [
        Sample(
            name,
            labels,
            value,
            None,
            None if told is None else PrometheusExemplar(told.labels, told.value, told.at_s),
        )
        for name, labels, value, told in family.samples
    ]
    return made
