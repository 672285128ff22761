"""What the sandbox service measures. Outcomes and reasons are closed sets."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.common.errors import MeshError
from services.sandbox.execution import Exited, Where

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
        self.up = Gauge("ollamesh_sandbox_up", "1 if the engine may be used", registry=registry)

    def ended(self, result: Exited | MeshError, where: Where) -> None:
        if isinstance(result, MeshError):
            self._ended.labels(result.reason, where.profile, where.engine).inc()
            return
        self._ended.labels(result.verdict.outcome.name, where.profile, where.engine).inc()
        self._queue.observe(result.usage.queue_s)
        self._wall.observe(result.usage.wall_s)
