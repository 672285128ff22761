"""What is measured of budgets."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5)


class BudgetMetrics:
    """Who was refused, who had to wait, and how many slices are outstanding."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._refused = Counter(
            "ollamesh_quota_refusals_total", "Requests refused, by quota", ("quota",), registry=registry
        )
        self._waited = Histogram(
            "ollamesh_quota_reserve_seconds",
            "Waits of requests that had to ask for budget",
            buckets=BUCKETS_S,
            registry=registry,
        )
        self._unasked = Counter(
            "ollamesh_quota_unasked_total",
            "Requests that were served though nobody could be asked for their budget",
            registry=registry,
        )
        self._slices = Gauge(
            "ollamesh_quota_slices", "Accounts of which this process holds a slice", registry=registry
        )

    def refused(self, quota: str) -> None:
        self._refused.labels(quota).inc()

    @contextmanager
    def waited(self) -> Iterator[None]:
        with self._waited.time():
            yield

    def unasked(self) -> None:
        self._unasked.inc()

    def slices(self, count: int) -> None:
        self._slices.set(count)
