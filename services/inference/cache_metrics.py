"""What the cache counts."""

from enum import Enum

from prometheus_client import CollectorRegistry, Counter


class Result(Enum):
    """What came of looking something up."""

    HIT = "hit"
    MISS = "miss"
    BYPASS = "bypass"  # It was not looked up: it may not be cached.
    ERROR = "error"  # The cache was away.


class Drop(Enum):
    """Why an answer that could have been kept was not."""

    FULL = "full"  # Too many wait to be kept.
    LARGE = "large"
    AWAY = "away"
    PURGED = "purged"  # While it was generated; or nothing had been kept for the tenant or model yet, twice at once.


class CacheMetrics:
    """Labels are closed sets; an operation is one of the `gen_ai_` metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lookups = Counter(
            "ollamesh_cache_lookups",
            "Answers, and texts to embed, that were looked for in the cache",
            ("operation", "result"),
            registry=registry,
        )
        self._kept = Counter(
            "ollamesh_cache_kept", "What was put into the cache", ("operation",), registry=registry
        )
        self._dropped = Counter(
            "ollamesh_cache_dropped",
            "What could have been put into the cache and was not, by reason",
            ("operation", "reason"),
            registry=registry,
        )
        self._alerts = Counter(
            "ollamesh_cache_alerts",
            "Values in the cache that are not what was put there under their names",
            registry=registry,
        )

    def looked(self, operation: str, result: Result, count: int = 1) -> None:
        self._lookups.labels(operation, result.value).inc(count)

    def kept(self, operation: str, count: int = 1) -> None:
        self._kept.labels(operation).inc(count)

    def dropped(self, operation: str, reason: Drop, count: int = 1) -> None:
        self._dropped.labels(operation, reason.value).inc(count)

    def alert(self) -> None:
        self._alerts.inc()
