"""One span's worth of facts per call: counted, timed, traced, and logged if it fails."""

import asyncio
import time
from dataclasses import dataclass

import grpc
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.common.grpc.around import Around, Context, Rest, received
from services.common.grpc.traced import answered, begun
from services.common.tracing.exemplars import Exemplars
from services.common.tracing.ids import exemplar
from services.common.tracing.tracer import Tracer

# Few, for there are as many series for each method.
DURATION_BUCKETS_S = (0.005, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _OfMethod:
    """What is looked up once for each method."""

    fine: Counter
    duration: Histogram


class RpcMetrics:
    """What is counted of every call. Labels are method and status, both closed sets."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("method", "code")
        self._handled = Counter("ollamesh_rpc_handled_total", "Calls by status", labels, registry=registry)
        self._duration = Histogram(
            "ollamesh_rpc_duration_seconds",
            "From first byte to status",
            ("method",),
            buckets=DURATION_BUCKETS_S,
            registry=registry,
        )
        self.in_flight = Gauge("ollamesh_rpc_in_flight", "Calls under way", registry=registry)
        self._methods: dict[str, _OfMethod] = {}  # Bounded by the methods that are served.
        self._exemplars = Exemplars(DURATION_BUCKETS_S)

    def ended(self, method: str, code: grpc.StatusCode, duration_s: float) -> None:
        """A call has."""
        self.in_flight.dec()
        if (known := self._methods.get(method)) is None:
            known = _OfMethod(self._handled.labels(method, "OK"), self._duration.labels(method))
            self._methods[method] = known
        if code is grpc.StatusCode.OK:
            known.fine.inc()
        else:
            self._handled.labels(method, code.name).inc()
        self._exemplars.observe(known.duration, duration_s, exemplar)


def telemetry(metrics: RpcMetrics, tracer: Tracer | None = None) -> Around:
    """Count, time and trace every call, and log those that fail. Outermost, so that it sees the final status."""

    async def around(method: str, context: Context, rest: Rest) -> object:
        if method.startswith("/grpc."):  # Health checks would drown everything else.
            return await rest()
        started_s = time.perf_counter()
        span = begun(tracer, method, received()) if tracer is not None else None
        code = grpc.StatusCode.OK
        metrics.in_flight.inc()
        try:
            return await rest()
        except grpc.aio.AbortError:
            code = grpc.StatusCode(_status(context))
            raise
        except BaseException as error:
            code = _code_of(error, context)
            raise
        finally:
            duration_s = time.perf_counter() - started_s
            metrics.ended(method, code, duration_s)
            if code is not grpc.StatusCode.OK:
                log.info("rpc_failed", method=method, code=code.name, duration_s=round(duration_s, 4))
            if span is not None:
                answered(span, code)

    return around


def _code_of(error: BaseException, context: Context) -> grpc.StatusCode:
    """What gRPC makes of an error that nobody has answered. A call that ends too soon is cancelled, by whomever."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        remaining_s = context.time_remaining()
        over = remaining_s is not None and remaining_s <= 0
        return grpc.StatusCode.DEADLINE_EXCEEDED if over else grpc.StatusCode.CANCELLED
    return grpc.StatusCode.UNKNOWN


def _status(context: Context) -> object:
    """The status that `abort` was given, as the enum's own value."""
    code = context.code()
    return code.value if isinstance(code, grpc.StatusCode) else _BY_NUMBER[int(code)].value


_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}
