"""Sends spans to a collector, at its pace and never at a caller's.

Spans wait in a bounded queue, as bytes. A collector that is away is tried a few times a batch, while the queue fills;
what has no room is dropped, and counted. The loop that serves calls also sends, because there is little to it: a batch is
joined and handed to gRPC.
"""

import asyncio
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from enum import Enum
from typing import Any

import grpc.aio
import structlog
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from prometheus_client import CollectorRegistry, Counter

from services.common.beside import beside
from services.common.grpc.client import collector_channel
from services.common.tracing import encode
from services.common.tracing.config import TracingConfig
from services.common.tracing.encode import Value
from services.common.tracing.tracer import Tracer

METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
SCOPE = "ollamesh"
QUEUE_SPANS_MAX, QUEUE_BYTES_MAX = 8192, 16 * 1024 * 1024
BATCH_SPANS_MAX, BATCH_BYTES_MAX = 512, 1024 * 1024  # Collectors take 4 MiB at once by default.
EVERY_S = 1.0  # At the latest.
SEND_S_MAX = 5.0
TRIES_MAX, PAUSE_S = 3, 1.0
FAREWELL_S = 2.0  # For what is still to be sent at the end.
_PASSES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
    }
)

log = structlog.get_logger(__name__)

Send = Callable[[bytes], object]


class Outcome(Enum):
    """What becomes of a span."""

    EXPORTED = "exported"
    DROPPED = "dropped"  # There was no room to wait.
    FAILED = "failed"  # The collector was away for too long, or did not want it.


class Exporter:
    """A queue, and who empties it. Only for the event loop's own thread."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        resource: Mapping[str, Value],
        registry: CollectorRegistry,
        *,
        queue_spans_max: int = QUEUE_SPANS_MAX,
        pause_s: float = PAUSE_S,
    ) -> None:
        # Bytes in, bytes out: they are written by hand.
        self._export: Any = channel.unary_unary(METHOD)
        self._frame = encode.resource_spans(resource, SCOPE)
        self._queue: deque[bytes] = deque()
        self._queue_bytes = 0
        self._queue_spans_max = queue_spans_max
        self._pause_s = pause_s
        self._some, self._many = asyncio.Event(), asyncio.Event()
        self._is_away = False
        self._sending = asyncio.Lock()
        spans = Counter(
            "ollamesh_spans", "Spans recorded, by what became of them", ("outcome",), registry=registry
        )
        self._counts = {outcome: spans.labels(outcome.value) for outcome in Outcome}

    def add(self, span: bytes) -> None:
        """Take a span that has ended. Never waits."""
        if len(self._queue) >= self._queue_spans_max or self._queue_bytes + len(span) > QUEUE_BYTES_MAX:
            self._counts[Outcome.DROPPED].inc()
            return
        self._queue.append(span)
        self._queue_bytes += len(span)
        self._some.set()
        if len(self._queue) >= BATCH_SPANS_MAX:
            self._many.set()

    async def run(self) -> None:
        """Send, until cancelled."""
        while True:
            await self._some.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await self._many.wait()
            await self.flush()

    async def flush(self) -> None:
        """Send all that is there now, and return when that has been sent, by whomever.

        What comes meanwhile waits for its own time: else a busy service would send a few at a time without end.
        """
        async with self._sending:
            self._many.clear()
            left_count = len(self._queue)
            while left_count > 0:
                batch = self._batch()
                left_count -= len(batch)
                await self._deliver(batch)
            if not self._queue:
                self._some.clear()

    def _batch(self) -> list[bytes]:
        batch: list[bytes] = []
        batch_bytes = 0
        while self._queue and len(batch) < BATCH_SPANS_MAX and batch_bytes < BATCH_BYTES_MAX:
            batch.append(span := self._queue.popleft())
            batch_bytes += len(span)
        self._queue_bytes -= batch_bytes
        return batch

    async def _deliver(self, batch: list[bytes]) -> None:
        outcome, refused_count = Outcome.FAILED, 0
        try:
            outcome, told_count = await self._sent(encode.request(self._frame, batch))
            refused_count = min(max(told_count, 0), len(batch))  # A collector may say anything.
        finally:  # Also if the process does not wait for it any longer.
            self._counts[outcome].inc(len(batch) - refused_count)
            self._counts[Outcome.FAILED].inc(refused_count)

    async def _sent(self, request: bytes) -> tuple[Outcome, int]:
        """What becomes of a batch, and how many of it the collector did not want."""
        for attempt in range(TRIES_MAX):
            try:
                answer = await self._export(request, timeout=SEND_S_MAX)
            except grpc.aio.AioRpcError as error:
                self._note(error.code())
                if error.code() not in _PASSES:
                    break
                if attempt + 1 < TRIES_MAX:
                    await asyncio.sleep(self._pause_s)
            else:
                self._is_away = False
                return Outcome.EXPORTED, _refused_count(answer)
        return Outcome.FAILED, 0

    def _note(self, code: grpc.StatusCode) -> None:
        if not self._is_away:  # Once for each time that it goes away.
            self._is_away = True
            log.warning("trace_collector_away", code=code.name)


def _refused_count(answer: bytes) -> int:
    """By what the collector says; what makes no sense refuses nothing."""
    try:
        told = ExportTraceServiceResponse.FromString(answer)
    except DecodeError:
        return 0
    return int(told.partial_success.rejected_spans)


@asynccontextmanager
async def tracing(
    config: TracingConfig, service: str, registry: CollectorRegistry, *, version: str = ""
) -> AsyncIterator[Tracer | None]:
    """What begins this process's traces; None if nobody collects them. At the end, what is queued is sent."""
    if config.target is None:
        yield None
        return
    if config.is_exposed:
        log.warning("traces_in_plain_text", mend="set OLLAMESH_OTLP_CA")
    resource = {"service.name": f"ollamesh-{service}", "service.namespace": "ollamesh"}
    resource["service.instance.id"] = f"{socket.gethostname()}:{os.getpid()}"
    if version:
        resource["service.version"] = version
    channel = collector_channel(config.target, config.authority)
    try:
        exporter = Exporter(channel, resource, registry)
        async with beside(exporter.run(), name="trace exporter"):
            try:
                yield Tracer(exporter.add, percent=config.percent)
            finally:
                with suppress(TimeoutError):
                    async with asyncio.timeout(FAREWELL_S):
                        await exporter.flush()
    finally:
        await channel.close()
