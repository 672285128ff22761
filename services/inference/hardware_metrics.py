"""The memory of instances and the GPUs of this machine. Where there is no GPU, nothing is said of any.

In a cluster, dcgm-exporter tells more of GPUs; these are here to be set beside what the scheduler knows.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from services.inference.core.gpus import Gpu
from services.inference.core.ledger import InstanceView

_OF_GPU: Sequence[tuple[str, str, Callable[[Gpu], float]]] = (
    ("utilization_ratio", "How busy the GPU was of late, 0 to 1", lambda gpu: gpu.utilization),
    ("memory_used_bytes", "Memory of the GPU that is taken, by whomever", lambda gpu: gpu.memory_used_bytes),
    ("memory_bytes", "Memory of the GPU", lambda gpu: gpu.memory_bytes),
    ("temperature_celsius", "How hot the GPU is", lambda gpu: gpu.temperature_celsius),
    ("power_watts", "What the GPU draws", lambda gpu: gpu.power_watts),
)


@dataclass(frozen=True, slots=True)
class _Seen:
    views: Sequence[InstanceView] = ()
    answering_count: int = 0
    lost_count: int = 0


@dataclass(slots=True, eq=False)
class HardwareMetrics(Collector):
    """Sampled by the loop, read by the endpoint's thread."""

    registry: CollectorRegistry
    gpus: Callable[[], Sequence[Gpu]]
    count_max: Callable[[], int]  # Of GPUs that were ever seen.
    _seen: _Seen = field(default_factory=_Seen)

    def __post_init__(self) -> None:
        self.registry.register(self)

    def sample(self, views: Sequence[InstanceView]) -> None:
        answering_count = len(self.gpus())
        lost_count = max(0, self.count_max() - answering_count)
        self._seen = _Seen(views, answering_count=answering_count, lost_count=lost_count)

    def collect(self) -> Iterable[Metric]:
        seen = self._seen
        used = GaugeMetricFamily(
            "ollamesh_instance_memory_used_bytes", "What its loaded models take", labels=("instance",)
        )
        room = GaugeMetricFamily(
            "ollamesh_instance_memory_bytes",
            "What they may take; 0 if that is not known",
            labels=("instance",),
        )
        for view in seen.views:
            used.add_metric((view.name,), sum(resident.size_bytes for resident in view.residents.values()))
            room.add_metric((view.name,), view.vram_bytes)
        yield from (used, room)
        if seen.answering_count or seen.lost_count:
            yield from _of_gpus(seen)


def _of_gpus(seen: _Seen) -> Iterable[Metric]:
    count = GaugeMetricFamily(
        "ollamesh_gpus",
        "GPUs of this machine: those that answer, and those that did and do not any more",
        labels=("state",),
    )
    count.add_metric(("answering",), seen.answering_count)
    count.add_metric(("lost",), seen.lost_count)
    yield count
    for name, meaning, value in _OF_GPU:
        family = GaugeMetricFamily(f"ollamesh_gpu_{name}", meaning, labels=("instance", "gpu"))
        for view in seen.views:
            for gpu in view.gpus:
                family.add_metric((view.name, str(gpu.index)), value(gpu))
        yield family
