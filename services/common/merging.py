"""Metrics of several processes as one view: what was counted is added up, sample by sample.

prometheus_client has a multiprocess mode of its own. It keeps no exemplars, needs a variable in the environment
before it is imported, and files on a disk; this needs only the samples.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from prometheus_client import Metric
from prometheus_client.samples import Exemplar, Sample

# What was counted stays counted when the process that did it is gone. Everything else is a state, and goes with it.
_LASTING = frozenset({"counter", "histogram", "summary"})
# Of these the least is what is true of all: whether all are ready, since when nothing has been learnt.
_LEAST = ("process_start_time_seconds", "_timestamp_seconds", "ollamesh_ready", "ollamesh_memory_limit_bytes")


def merged(groups: Iterable[Iterable[Metric]]) -> list[Metric]:
    """Return the families of all `groups`, each once, in the order in which they are first met.

    Samples of the same name and labels are added, gauges too, but for those of which a sum says nothing. Of exemplars,
    the latest is kept.
    """
    families: dict[str, _Family] = {}
    for group in groups:
        for metric in group:
            family = families.get(metric.name)
            if family is None:
                family = families[metric.name] = _Family(metric)
            for sample in metric.samples:
                family.add(sample)
    return [family.metric() for family in families.values()]


def lasting(metrics: Iterable[Metric]) -> list[Metric]:
    """Return those of a process's families that outlive it."""
    return [metric for metric in metrics if metric.type in _LASTING]


@dataclass(slots=True)
class _Family:
    like: Metric
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], Sample] = field(default_factory=dict)

    def add(self, sample: Sample) -> None:
        key = (sample.name, tuple(sorted(sample.labels.items())))
        known = self.samples.get(key)
        self.samples[key] = sample if known is None else _sum(known, sample, self.like.type)

    def metric(self) -> Metric:
        made = Metric(self.like.name, self.like.documentation, self.like.type, self.like.unit)
        made.samples = list(self.samples.values())
        return made


def _sum(one: Sample, other: Sample, kind: str) -> Sample:
    if kind == "info":
        return one  # Its value is always 1; what it says is in its labels.
    if kind == "gauge" and one.name.endswith(_LEAST):
        return one._replace(value=min(one.value, other.value))
    return one._replace(value=one.value + other.value, exemplar=_latest(one.exemplar, other.exemplar))


def _latest(one: Exemplar | None, other: Exemplar | None) -> Exemplar | None:
    if one is None or other is None:
        return other if one is None else one
    return max(one, other, key=lambda exemplar: float(exemplar.timestamp or 0.0))
