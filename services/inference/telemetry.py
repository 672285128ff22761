"""What the inference service measures. Labels are closed sets: operations, priorities, reasons, known models.

Names and buckets of the `gen_ai_` metrics are OpenTelemetry's, as dashboards of other gateways read them.
"""

from collections import Counter as Tally
from collections.abc import Collection, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram

from services.common.errors import MeshError
from services.common.metrics.few import Child, Few
from services.common.tracing.exemplars import Exemplars
from services.inference.core.decisions import Cause
from services.inference.core.jobs import Job, Priority
from services.inference.core.scheduler import Settled
from services.inference.queue_depth import QueueDepth
from services.inference.work import Summary

_GEN_AI = ("gen_ai_operation_name", "gen_ai_request_model")
# Combinations of labels that are told apart, by metric. All together they are some three thousand of the 5,000 series
# that a service may have. The processes of a service have the same bounds together as each has alone (counts.py).
CHILDREN_MAX = {
    "gen_ai_server_request_duration_seconds": 40,
    "gen_ai_client_token_usage": 28,
    "gen_ai_server_time_to_first_token_seconds": 16,
    "gen_ai_server_time_per_output_token_seconds": 16,
    "ollamesh_queue_wait_seconds": 30,
    "ollamesh_queue_depth": 51,
    "ollamesh_admission_refusals": 32,
    "ollamesh_model_loads": 48,
    "ollamesh_model_load_failures": 32,
    "ollamesh_gpu_seconds": 100,
}
_WAIT_BUCKETS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_DURATION_BUCKETS_S = tuple(0.01 * 2**step for step in range(14))
_FIRST_TOKEN_BUCKETS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08),
    *(0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
_TOKEN_BUCKETS = tuple(4.0**step for step in range(14))
_PER_TOKEN_BUCKETS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)


class Metrics:
    """Only requests that were admitted get here, so a model label is one that the fleet has or had: callers
    cannot add labels by inventing names. Of a fleet of very many, the first are told apart.
    """

    def __init__(self, registry: CollectorRegistry, *, tenants: Collection[str] = ()) -> None:
        """`tenants` are those that may become a label; the others are added up."""
        self._tenants = tenants
        self._durations, self._first_tokens, self._per_tokens = map(
            Exemplars, (_DURATION_BUCKETS_S, _FIRST_TOKEN_BUCKETS_S, _PER_TOKEN_BUCKETS_S)
        )
        self._add_scheduling(registry)
        self._queue_wait = _few(
            Histogram(
                "ollamesh_queue_wait_seconds",
                "From a request's arrival to its slot",
                ("model", "priority"),
                buckets=_WAIT_BUCKETS_S,
                registry=registry,
            ),
            ("model", "priority"),
        )
        self._queue_depth = QueueDepth()
        registry.register(self._queue_depth)
        self._first_token = _few(
            Histogram(
                "gen_ai_server_time_to_first_token_seconds",
                "From a request's arrival to its first token",
                _GEN_AI,
                buckets=_FIRST_TOKEN_BUCKETS_S,
                registry=registry,
            ),
            _GEN_AI,
        )
        self._per_token = _few(
            Histogram(
                "gen_ai_server_time_per_output_token_seconds",
                "Between tokens, after the first",
                _GEN_AI,
                buckets=_PER_TOKEN_BUCKETS_S,
                registry=registry,
            ),
            _GEN_AI,
        )
        self._tokens = _few(
            Histogram(
                "gen_ai_client_token_usage",
                "Tokens read and written: of whole answers in the gateway, of steps in the agent",
                (*_GEN_AI, "gen_ai_token_type"),
                buckets=_TOKEN_BUCKETS,
                registry=registry,
            ),
            (*_GEN_AI, "gen_ai_token_type"),
        )
        self._duration = _few(
            Histogram(
                "gen_ai_server_request_duration_seconds",
                "From a request's arrival to its end; error_type is empty for those that succeeded",
                (*_GEN_AI, "error_type"),
                buckets=_DURATION_BUCKETS_S,
                registry=registry,
            ),
            (*_GEN_AI, "error_type"),
        )

    def _add_scheduling(self, registry: CollectorRegistry) -> None:
        self._refused = _few(
            Counter(
                "ollamesh_admission_refusals",
                "Requests that were refused, by reason",
                ("reason",),
                registry=registry,
            ),
            ("reason",),
        )
        self._loads = _few(
            Counter("ollamesh_model_loads", "Models loaded, by cause", ("model", "cause"), registry=registry),
            ("model", "cause"),
        )
        self._gpu_s = _few(
            Counter(
                "ollamesh_gpu_seconds",
                "GPU time of requests; `tenant` is `other` for those that are not configured to be named",
                ("tenant", "model"),
                registry=registry,
            ),
            ("tenant", "model"),
        )
        self._load_failures = _few(
            Counter(
                "ollamesh_model_load_failures",
                "Models that could not be loaded",
                ("model",),
                registry=registry,
            ),
            ("model",),
        )
        self._cancel_to_idle = Histogram(
            "ollamesh_cancel_to_idle_seconds",
            "From a caller's leaving to its slot being free again",
            buckets=_WAIT_BUCKETS_S,
            registry=registry,
        )

    def refused(self, reason: str) -> None:
        """A request was refused before it got a slot."""
        self._refused.labels(reason).inc()

    def load(self, model: str, cause: Cause) -> None:
        """A model is being loaded."""
        self._loads.labels(model, cause.value).inc()

    def loaded(self, model: str, *, ok: bool) -> None:
        """A model has been loaded, or could not be."""
        if not ok:
            self._load_failures.labels(model).inc()

    def ran(self, job: Job, settled: Settled) -> None:
        """A request gave its slot back."""
        tenant = job.tenant if job.tenant in self._tenants else "other"
        self._gpu_s.labels(tenant, job.model).inc(settled.charge.gpu_s)
        if settled.surprise:
            self.load(job.model, Cause.SURPRISE)

    def idle_again(self, cancel_to_idle_s: float) -> None:
        """The slot of a request whose caller had left is free."""
        self._cancel_to_idle.observe(cancel_to_idle_s)

    def placed(self, model: str, priority: Priority, *, waited_s: float) -> None:
        """A request got its slot."""
        self._queue_wait.labels(model, priority.name.lower()).observe(waited_s)

    def waiting(self, model: str, line: Sequence[Job]) -> None:
        """A queue is now as long as `line`."""
        self._queue_depth.set(model, Tally(job.priority for job in line))

    def settled(self, job: Job, summary: Summary, *, now_s: float) -> None:
        """A request that had been queued is done with."""
        labels = (summary.operation, job.model)
        duration_s = (summary.ended_at_s or now_s) - job.arrived_at_s
        error_type = "CANCELLED" if summary.ended_at_s is None else _error_type(summary.error)
        duration = self._duration.labels(*labels, error_type)
        self._durations.observe(duration, duration_s, summary.exemplar)
        for kind, count in (("input", summary.prompt_token_count), ("output", summary.output_token_count)):
            if count:
                self._tokens.labels(*labels, kind).observe(count)
        if summary.first_token_at_s is None:
            return
        first_token_s = summary.first_token_at_s - job.arrived_at_s
        self._first_tokens.observe(self._first_token.labels(*labels), first_token_s, summary.exemplar)
        if summary.output_token_count > 1:
            per_token_s = (duration_s - first_token_s) / (summary.output_token_count - 1)
            self._per_tokens.observe(self._per_token.labels(*labels), per_token_s, summary.exemplar)


def _few(metric: Child, labels: Sequence[str]) -> Few[Child]:
    (described,) = metric.describe()
    return Few(metric, labels, children_max=CHILDREN_MAX[described.name])


def _error_type(error: Exception | None) -> str:
    match error:
        case None:
            return ""
        case MeshError():
            return error.reason
        case _:
            return "INTERNAL"
