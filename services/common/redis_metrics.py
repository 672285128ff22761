"""How the Redis that the replicas share is doing, as this process sees it."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from redis.asyncio import BlockingConnectionPool

_STATE = "db.client.connection.state"
_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)  # Nobody waits longer than a fifth.


class RedisMetrics:
    """Of several processes, the endpoint shows the sums: `up` is how many of them it answers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._up = Gauge(
            "ollamesh_redis_up", "Processes of this service that Redis answers", registry=registry
        )
        self._up.set(1)
        self._failures = Counter(
            "ollamesh_redis_failures",
            "Questions to Redis that came to nothing, by cause; none are asked while it is away",
            ("cause",),
            registry=registry,
        )
        self._asked = Histogram(
            "ollamesh_redis_seconds",
            "Until Redis had answered a question, which may be several commands",
            buckets=_BUCKETS_S,
            registry=registry,
        )

    def opened(self, pool: BlockingConnectionPool) -> None:
        """Tell how many connections it has, whenever somebody asks."""
        self._registry.register(_Pool(pool))

    def changed(self, up: bool) -> None:  # noqa: FBT001 - As RedisLink tells it.
        self._up.set(up)

    def answered(self, took_s: float) -> None:
        self._asked.observe(took_s)

    def failed(self, cause: str) -> None:
        """`cause` is one of connection, timeout, refused."""
        self._failures.labels(cause).inc()


class _Pool(Collector):
    def __init__(self, pool: BlockingConnectionPool) -> None:
        self._pool = pool

    def collect(self) -> Iterable[Metric]:
        connections = GaugeMetricFamily(
            "ollamesh_redis_pool_connections", "Connections to Redis", labels=("state",)
        )
        for count, attributes in self._pool.get_connection_count():
            connections.add_metric((attributes[_STATE],), count)
        return [
            connections,
            GaugeMetricFamily(
                "ollamesh_redis_pool_connections_max",
                "What they may be at most",
                value=self._pool.max_connections,
            ),
        ]
