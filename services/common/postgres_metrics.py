"""What PostgreSQL costs a service: waits for connections, statements by name, and which of them are slow."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import asyncpg
import structlog
from asyncpg.connection import LoggedQuery
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from services.common.metrics.few import Few
from services.common.statements import summary

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

log = structlog.get_logger(__name__)

SLOW_S = 0.5  # Most take a millisecond; a call has a second or a few.
STATEMENTS_MAX = 64  # Told apart. Auth has the most, some sixty.
_ACQUIRE_BUCKETS_S = (
    0.001,
    0.005,
    0.025,
    0.1,
    0.4,
    0.8,
)  # After 0.8 s waits are given up, and counted as busy.
_STATEMENT_BUCKETS_S = (0.001, 0.0025, 0.01, 0.05, 0.25, SLOW_S, 2.5)
_BY_STATEMENT = ("statement",)


class PostgresMetrics:
    """Of all pools of a process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._pools = Pools()
        registry.register(self._pools)
        self.acquired = Histogram(
            "ollamesh_postgres_pool_acquire_seconds",
            "Until a connection was there, new ones made included",
            ("pool",),
            buckets=_ACQUIRE_BUCKETS_S,
            registry=registry,
        )
        self.refused = Counter(
            "ollamesh_postgres_refused_total",
            "Times that the store gave no answer: busy (every connection in use) or away",
            ("pool", "cause"),
            registry=registry,
        )
        self.up = Gauge(
            "ollamesh_postgres_up",
            "1 if what was asked last was answered; not there before",
            ("pool",),
            registry=registry,
        )
        self._statement_s = Few(
            Histogram(
                "ollamesh_postgres_statement_seconds",
                "Until a statement's answer was read",
                _BY_STATEMENT,
                buckets=_STATEMENT_BUCKETS_S,
                registry=registry,
            ),
            _BY_STATEMENT,
            children_max=STATEMENTS_MAX,
        )
        self._slow = Few(
            Counter(
                "ollamesh_postgres_slow_statements_total",
                f"Statements that took {SLOW_S} s or more",
                _BY_STATEMENT,
                registry=registry,
            ),
            _BY_STATEMENT,
            children_max=STATEMENTS_MAX,
        )
        self._failed = Few(
            Counter(
                "ollamesh_postgres_statement_errors_total",
                "Statements that failed",
                _BY_STATEMENT,
                registry=registry,
            ),
            _BY_STATEMENT,
            children_max=STATEMENTS_MAX,
        )

    def pool(self, name: str) -> "PoolMetrics":
        """`name` is one of a few: main, audit, leases."""
        return PoolMetrics(self, self._pools, name)

    def ran(self, query: LoggedQuery) -> None:
        """A statement has ended. Of its text only the name is kept, of its values nothing."""
        name, took_s = summary(query.query), query.elapsed
        self._statement_s.labels(name).observe(took_s)
        if isinstance(query.exception, Exception):
            self._failed.labels(name).inc()
        if took_s >= SLOW_S:
            self._slow.labels(name).inc()
            log.warning("slow_statement", statement=name, duration_s=round(took_s, 3))


class PoolMetrics:
    """Of one pool."""

    def __init__(self, metrics: PostgresMetrics, pools: "Pools", name: str) -> None:
        self.ran = metrics.ran
        self._pools, self._name = pools, name
        self._acquired = metrics.acquired.labels(name)
        self._busy, self._away = (metrics.refused.labels(name, cause) for cause in ("busy", "away"))
        self._up = metrics.up  # Not told of a pool before something was asked of it: that would be a 0.
        self.waiting_count = 0

    def opened(self, pool: Pool) -> None:
        """Tell how many connections it has, whenever somebody asks."""
        self._pools.add(self._name, pool, self)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Somebody waits until all connections are not in use."""
        self.waiting_count += 1
        try:
            yield
        finally:
            self.waiting_count -= 1

    def acquired(self, waited_s: float) -> None:
        self._acquired.observe(waited_s)

    def answered(self) -> None:
        self._up.labels(self._name).set(1)

    def busy(self) -> None:
        self._busy.inc()

    def away(self) -> None:
        self._away.inc()
        self._up.labels(self._name).set(0)


class Pools(Collector):
    """How many connections there are, read when they are asked for."""

    def __init__(self) -> None:
        self._pools: dict[str, tuple[Pool, PoolMetrics]] = {}

    def add(self, name: str, pool: Pool, metrics: PoolMetrics) -> None:
        self._pools = {**self._pools, name: (pool, metrics)}

    def collect(self) -> Iterable[Metric]:
        connections = GaugeMetricFamily(
            "ollamesh_postgres_pool_connections", "Connections to PostgreSQL", labels=("pool", "state")
        )
        most = GaugeMetricFamily(
            "ollamesh_postgres_pool_connections_max", "What they may be at most", labels=("pool",)
        )
        waiting = GaugeMetricFamily(
            "ollamesh_postgres_pool_waiting", "Who waits for a connection", labels=("pool",)
        )
        for name, (pool, metrics) in self._pools.items():
            idle = pool.get_idle_size()
            connections.add_metric((name, "idle"), idle)
            connections.add_metric((name, "used"), max(0, pool.get_size() - idle))
            most.add_metric((name,), pool.get_max_size())
            waiting.add_metric((name,), metrics.waiting_count)
        return [connections, most, waiting]
