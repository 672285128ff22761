"""How the Redis that the replicas share is doing, as this process sees it."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class RedisMetrics:
    """Of several processes, the endpoint shows the sums: `up` is how many of them it answers."""

    def __init__(self, registry: CollectorRegistry) -> None:
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

    def changed(self, up: bool) -> None:  # noqa: FBT001 - As RedisLink tells it.
        self._up.set(up)

    def failed(self, cause: str) -> None:
        self._failures.labels(cause).inc()
