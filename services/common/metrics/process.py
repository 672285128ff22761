"""What a process is to its machine: processor time, memory, open files, threads, garbage, lines of its log."""

from collections.abc import Iterable
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    Metric,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from services.common.logs.counts import COUNTS

MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")  # As a container sees its own.


def process_registry() -> CollectorRegistry:
    """A registry that begins with the process's own figures; all else that it measures is added to it.

    When each series began is not told: it would be a third more of them, and nothing here asks for it.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    Gauge("ollamesh_process_threads", "Threads of the process", registry=registry).set_function(_threads)
    registry.register(MemoryLimit(MEMORY_LIMIT))
    registry.register(COUNTS)
    return registry


class MemoryLimit(Collector):
    """What the control group of the process may take; nothing where it has no limit."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def collect(self) -> Iterable[Metric]:
        try:
            limit = int(self._path.read_text())
        except (OSError, ValueError):  # No control groups, or `max`.
            return []
        meaning = "What the process's control group may take; absent without a limit"
        return [GaugeMetricFamily("ollamesh_memory_limit_bytes", meaning, value=limit)]


def _threads() -> float:
    return sum(1 for _ in Path("/proc/self/task").iterdir())
