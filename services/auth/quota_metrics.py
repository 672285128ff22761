"""What quotas count: refusals by budget, and how long the ledger takes."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.common.errors import StoreFailure

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5)


class QuotaMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._refused = Counter(
            "ollamesh_auth_quota_refusals_total", "Reservations refused", ("quota",), registry=registry
        )
        self._seconds = Histogram(
            "ollamesh_auth_quota_ledger_seconds",
            "Time to reserve or settle",
            ("operation",),
            buckets=BUCKETS_S,
            registry=registry,
        )
        self._failed = Counter(
            "ollamesh_auth_quota_ledger_failures_total",
            "Times that the ledger could not be asked",
            ("operation",),
            registry=registry,
        )
        self._rates = Counter(
            "ollamesh_auth_rate_limit_answers_total",
            "Requests asked about by the edge",
            ("answer", "counted"),
            registry=registry,
        )
        self._redis_up = Gauge(
            "ollamesh_auth_rate_limit_redis_up",
            "Whether rates are counted in Redis; if not, each replica counts its share",
            registry=registry,
        )

    def refused(self, quota: str) -> None:
        self._refused.labels(quota).inc()

    @contextmanager
    def timed(self, operation: str) -> Iterator[None]:
        with self._seconds.labels(operation).time():
            try:
                yield
            except StoreFailure:
                self._failed.labels(operation).inc()
                raise

    def rate(self, answer: str, counted: str) -> None:
        """`counted` says where: redis, local, remembered, or nowhere (unlimited)."""
        self._rates.labels(answer, counted).inc()

    def redis(self, *, up: bool) -> None:
        self._redis_up.set(up)
