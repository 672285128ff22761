"""What is measured of batches, in each process."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

# How an item that this process had left it.
OUTCOMES = ("succeeded", "failed", "put_back", "lost")


class BatchMetrics:
    """Labels are the outcomes, and nothing of a tenant's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._items = Counter(
            "ollamesh_batch_items_total",
            "Items of batches that this service had, by how they left it",
            ("outcome",),
            registry=registry,
        )
        for outcome in OUTCOMES:
            self._items.labels(outcome)
        self._running = Gauge(
            "ollamesh_batch_items_running", "Items of batches at work now", registry=registry
        )

    def left(self, outcome: str, count: int = 1) -> None:
        self._items.labels(outcome).inc(count)

    def watch(self, running: Callable[[], float]) -> None:
        """Have `running` asked for the gauge."""
        self._running.set_function(running)
