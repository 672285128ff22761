"""Metrics whose labels come from what is served (models, statements, tools) stay few, whatever is served.

Each combination of labels is a series for every bucket, which somebody stores for weeks. So a metric has a bound: the
first combinations are told apart, and all later ones are added up under `other`. A fleet of three models never gets
there; one of three hundred does, and its metrics still fit.
"""

from collections.abc import Sequence
from typing import Generic, TypeVar

from prometheus_client import Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.samples import Sample

Child = TypeVar("Child", bound=MetricWrapperBase)

# What is added up under which name, by label. All other labels are closed sets and stay as they are. `_OTHER` is
# OpenTelemetry's own word for an error that is not told apart.
OTHERS = {
    "model": "other",
    "gen_ai_request_model": "other",
    "gen_ai_tool_name": "_OTHER",
    "error_type": "_OTHER",
    "reason": "other",
    "statement": "other",
    "tenant": "other",
    "tool": "_OTHER",
}
KEPT_APART = frozenset(
    {"", "CANCELLED"}
)  # Of errors: none, and the caller's own leaving, are not just others.


class Few(Generic[Child]):
    """A metric of which at most `children_max` combinations of labels are told apart."""

    def __init__(self, metric: Child, labels: Sequence[str], *, children_max: int) -> None:
        self._metric, self._labels, self._children_max = metric, tuple(labels), children_max
        self._children: dict[tuple[str, ...], Child] = {}

    def labels(self, *values: str) -> Child:
        """The series of these values, or the one where they are added up."""
        return self._children.get(values) or self._new(values)

    def _new(self, values: tuple[str, ...]) -> Child:
        if len(self._children) >= self._children_max:
            values = folded(self._labels, values)
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._metric.labels(*values)
        return child


def folded(labels: Sequence[str], values: Sequence[str]) -> tuple[str, ...]:
    """Return what is left of the values when those that cannot be foreseen are added up."""
    return tuple(
        value if value in KEPT_APART else OTHERS.get(label, value)
        for label, value in zip(labels, values, strict=True)
    )


def few(metric: Metric, children_max: int | None) -> Metric:
    """Return a family that was put together of several processes' with so many combinations of labels at most."""
    if children_max is None:
        return metric
    children: dict[tuple[tuple[str, str], ...], None] = {}
    totals: dict[tuple[str, tuple[tuple[str, str], ...]], Sample] = {}
    for sample in metric.samples:
        labels = tuple((name, value) for name, value in sample.labels.items() if name != "le")
        if labels in children or len(children) < children_max:
            children[labels] = None
        else:
            names, values = zip(*labels, strict=True)
            labels = tuple(zip(names, folded(names, values), strict=True))
        if "le" in sample.labels:
            labels = (*labels, ("le", sample.labels["le"]))
        key = sample.name, labels
        known = totals.get(key)
        totals[key] = sample._replace(
            labels=dict(labels), value=sample.value + (0.0 if known is None else known.value)
        )
    metric.samples = list(totals.values())
    return metric
