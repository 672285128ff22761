"""What the sandbox service measures. Outcomes and reasons are closed sets."""

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from services.common.errors import MeshError
from services.sandbox.core.keeping import Shelf
from services.sandbox.execution import Exited, Where
from services.sandbox.places import Places
from services.sandbox.ports import Jails

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class SandboxMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._ended = Counter(
            "ollamesh_sandbox_executions_total",
            "Executions by outcome, or by the reason why they have none",
            ("outcome", "profile", "engine"),
            registry=registry,
        )
        self._queue = Histogram(
            "ollamesh_sandbox_queue_seconds", "Waiting for a jail", registry=registry, buckets=_BUCKETS_S
        )
        self._wall = Histogram(
            "ollamesh_sandbox_wall_seconds",
            "From a program's start until nothing of it was left",
            registry=registry,
            buckets=_BUCKETS_S,
        )
        self._refused = Counter(
            "ollamesh_sandbox_refused_total",
            "Executions that were not accepted, by the reason",
            ("reason",),
            registry=registry,
        )
        self.up = Gauge("ollamesh_sandbox_up", "1 if the engine may be used", registry=registry)

    def refused(self, error: MeshError) -> None:
        self._refused.labels(error.reason).inc()

    def ended(self, result: Exited | MeshError, where: Where) -> None:
        if isinstance(result, MeshError):
            self._ended.labels(result.reason, where.profile, where.engine).inc()
            return
        self._ended.labels(result.verdict.outcome.name, where.profile, where.engine).inc()
        self._queue.observe(result.usage.queue_s)
        self._wall.observe(result.usage.wall_s)


class EngineMetrics(Collector):
    """Which engines work, and whether they have jails to give out; read whenever somebody asks."""

    def __init__(self, every: Sequence[Jails]) -> None:
        self._every = every

    def collect(self) -> Iterable[Metric]:
        labels = ("engine", "profile")
        up = GaugeMetricFamily(
            "ollamesh_sandbox_engine_up", "1 if the engine may be used for the profile", labels=labels
        )
        warm = GaugeMetricFamily("ollamesh_sandbox_warm_jails", "Jails that are ready", labels=labels)
        wanted = GaugeMetricFamily(
            "ollamesh_sandbox_warm_jails_wanted", "Jails that should be ready", labels=labels
        )
        for jails in self._every:
            values = jails.engine, jails.profile.name
            up.add_metric(values, jails.problem is None)
            warm.add_metric(values, jails.warm.count)
            wanted.add_metric(values, jails.warm.wanted_count)
        return [up, warm, wanted]


def places_watched(registry: CollectorRegistry, places: Places) -> None:
    """What is given out, read whenever somebody asks."""
    books = places.books
    for name, meaning, value in (
        ("running", "Executions that have a place", lambda: books.running_count),
        ("waiting", "Executions and sessions that wait for a place", lambda: books.waiting_count),
        ("memory_reserved_bytes", "Memory limits of all that has a place", lambda: books.memory_bytes),
        ("memory_budget_bytes", "What they may be at most", lambda: books.bounds.memory_bytes),
    ):
        Gauge(f"ollamesh_sandbox_{name}", meaning, registry=registry).set_function(value)


def kept_watched(registry: CollectorRegistry, shelf: Shelf) -> None:
    """What is kept of executions that have ended."""
    for name, meaning, value in (
        ("kept", "Executions that have ended and can still be read", lambda: shelf.count),
        ("kept_bytes", "Their output and results", lambda: shelf.size_bytes),
    ):
        Gauge(f"ollamesh_sandbox_{name}", meaning, registry=registry).set_function(value)
