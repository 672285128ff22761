"""What is counted of runs, under the names that the guide fixes."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.agent.core.events import Status

MODELS_MAX = 256
DURATION_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class AgentMetrics:
    """A model becomes a label only once it has answered: names that callers make up do not."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "agent_requests_total", "Runs by how they ended", ("model", "status"), registry=registry
        )
        self._duration = Histogram(
            "agent_request_duration_seconds",
            "From a run's first event to its last",
            ("model",),
            buckets=DURATION_BUCKETS_S,
            registry=registry,
        )
        self._active = Gauge("agent_active_requests", "Runs that wait or work", registry=registry)
        self._lost = Counter(
            "ollamesh_agent_runs_lost_total", "Runs that nobody could go on with", registry=registry
        )
        self._resumed = Counter(
            "ollamesh_agent_runs_resumed_total",
            "Runs gone on with after their replica was lost",
            registry=registry,
        )
        self._models: set[str] = set()

    def accepted(self) -> None:
        self._active.inc()

    def left(self) -> None:
        """A run has left this replica, however."""
        self._active.dec()

    def buried(self) -> None:
        """A run of a dead replica was ended here: nobody could go on with it."""
        self._lost.inc()

    def resumed(self) -> None:
        """A run of a dead replica is gone on with here."""
        self._resumed.inc()

    def label(self, model: str) -> str:
        """What the model is called in metrics."""
        return model if model in self._models else "other"

    def ended(self, status: Status, *, model: str, answers: bool, duration_s: float) -> None:
        if answers and len(self._models) < MODELS_MAX:
            self._models.add(model)
        label = self.label(model)
        self._requests.labels(label, status.value.lower()).inc()
        self._duration.labels(label).observe(duration_s)
