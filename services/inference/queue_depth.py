"""How many requests wait, by model and priority: the first models apart, all others added up."""

from collections.abc import Iterable, Mapping

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from services.inference.core.jobs import Priority

MODELS_MAX = 16
OTHER = "other"


class QueueDepth(Collector):
    """Is told of every change, and asked by the endpoint's thread: what that reads is replaced, never changed."""

    def __init__(self) -> None:
        self._apart: dict[
            str, Mapping[Priority, int]
        ] = {}  # Empty queues too: a series does not come and go.
        self._others: dict[str, Mapping[Priority, int]] = {}  # With somebody in them.
        self._had_others = False

    def set(self, model: str, counts: Mapping[Priority, int]) -> None:
        if model in self._apart or len(self._apart) < MODELS_MAX:
            self._apart = {**self._apart, model: counts}
            return
        rest = {name: known for name, known in self._others.items() if name != model}
        self._others = {**rest, model: counts} if any(counts.values()) else rest
        self._had_others = True

    def collect(self) -> Iterable[Metric]:
        depth = GaugeMetricFamily(
            "ollamesh_queue_depth", "Requests that wait for a slot", labels=("model", "priority")
        )
        others = list(self._others.values())
        for priority in Priority:
            name = priority.name.lower()
            for model, counts in self._apart.items():
                depth.add_metric((model, name), counts.get(priority, 0))
            if self._had_others:
                depth.add_metric((OTHER, name), sum(counts.get(priority, 0) for counts in others))
        return [depth]
