"""Logs as JSON lines, and one span's worth of facts per call.

An event is a constant name plus fields. Fields are chosen one by one where they are logged: never a
prompt, a token, a secret or a request.
"""

import logging
import sys
import time

import grpc
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.common.grpc.around import Around, Context, Rest

log = structlog.get_logger(__name__)


# Without the locals of each frame, among which are passwords, tokens and prompts.
_TRACEBACK = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def configure_logging(service: str) -> None:
    """Send every log line, ours and the libraries', to standard error as one JSON object."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _TRACEBACK,
        lambda _logger, _method, event: {"service": service, **event},
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)


class RpcMetrics:
    """What is counted of every call. Labels are method and status, both closed sets."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("method", "code")
        self.handled = Counter("ollamesh_rpc_handled_total", "Calls by status", labels, registry=registry)
        self.duration = Histogram(
            "ollamesh_rpc_duration_seconds", "From first byte to status", ("method",), registry=registry
        )
        self.in_flight = Gauge("ollamesh_rpc_in_flight", "Calls under way", registry=registry)


def telemetry(metrics: RpcMetrics) -> Around:
    """Count and time every call, and log those that fail. Outermost, so that it sees the final status."""

    async def around(method: str, context: Context, rest: Rest) -> object:
        if method.startswith("/grpc."):  # Health checks would drown everything else.
            return await rest()
        started_s = time.perf_counter()
        code = grpc.StatusCode.OK
        metrics.in_flight.inc()
        try:
            return await rest()
        except grpc.aio.AbortError:
            code = grpc.StatusCode(_status(context))
            raise
        except BaseException:
            remaining_s = context.time_remaining()
            over = remaining_s is not None and remaining_s <= 0
            code = grpc.StatusCode.DEADLINE_EXCEEDED if over else grpc.StatusCode.CANCELLED
            raise
        finally:
            duration_s = time.perf_counter() - started_s
            metrics.in_flight.dec()
            metrics.handled.labels(method, code.name).inc()
            metrics.duration.labels(method).observe(duration_s)
            if code is not grpc.StatusCode.OK:
                log.info("rpc_failed", method=method, code=code.name, duration_s=round(duration_s, 4))

    return around


def _status(context: Context) -> object:
    """The status that `abort` was given, as the enum's own value."""
    code = context.code()
    return code.value if isinstance(code, grpc.StatusCode) else _BY_NUMBER[int(code)].value


_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}
