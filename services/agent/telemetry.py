"""What is counted of runs, under the names that the guide fixes."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from services.agent.core.events import Status

MODELS_MAX = 16  # Each is some hundred series.
WAIT_BUCKETS_S = (0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
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
        self._waited = Histogram(
            "ollamesh_agent_run_wait_seconds",
            "From a run's coming here to its turn",
            buckets=WAIT_BUCKETS_S,
            registry=registry,
        )
        self._registry = registry
        self._models: set[str] = set()

    def watch(self, ages_s: Callable[[], Mapping[str, Sequence[float]]], *, workers_max: int) -> None:
        """Tell how many runs there are here, and how old they are, whenever somebody asks."""
        self._registry.register(_Runs(ages_s, workers_max))

    def turn(self, waited_s: float) -> None:
        """A run is worked on."""
        self._waited.observe(waited_s)

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

    def answered(self, model: str) -> None:
        """It exists: nobody has made up its name."""
        if len(self._models) < MODELS_MAX:
            self._models.add(model)

    def label(self, model: str) -> str:
        """What the model is called in metrics."""
        return model if model in self._models else "other"

    def ended(self, status: Status, *, model: str, answers: bool, duration_s: float) -> None:
        if answers:
            self.answered(model)
        label = self.label(model)
        self._requests.labels(label, status.value.lower()).inc()
        self._duration.labels(label).observe(duration_s)


class _Runs(Collector):
    """Those of this replica. A run that waits for a person is nobody's, and not among them."""

    def __init__(self, ages_s: Callable[[], Mapping[str, Sequence[float]]], workers_max: int) -> None:
        self._ages_s, self._workers_max = ages_s, workers_max

    def collect(self) -> Iterable[Metric]:
        runs = GaugeMetricFamily("ollamesh_agent_runs", "Runs of this replica, by state", labels=("state",))
        oldest = GaugeMetricFamily(
            "ollamesh_agent_run_oldest_seconds",
            "How long the oldest of them has been in its state; 0 without any",
            labels=("state",),
        )
        for state, ages_s in self._ages_s().items():
            runs.add_metric((state,), len(ages_s))
            oldest.add_metric((state,), max(ages_s, default=0.0))
        meaning = "How many runs may work at the same time"
        return [
            runs,
            oldest,
            GaugeMetricFamily("ollamesh_agent_workers_max", meaning, value=self._workers_max),
        ]
