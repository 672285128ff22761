"""Takes spans by OTLP over gRPC, on loopback, and puts them into the store.

One thread writes. Who sends more than it can write is told to try again, which OTLP's exporters do; what they still
cannot send, they drop, so that no call of the mesh waits for its trace.
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from deploy.local.traces.intake import take_in
from deploy.local.traces.store import TraceStore

SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
WAITING_MAX = 64  # Requests; one holds 512 spans as a rule.
REQUEST_BYTES_MAX = 16 << 20
TRIM_EVERY_S = 60.0
GRACE_S = 1.0

log = logging.getLogger(__name__)


class Receiver:
    def __init__(self, store: TraceStore) -> None:
        self._store = store
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="traces")
        self._waiting_count = 0

    async def export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:  # noqa: ANN401
        if self._waiting_count >= WAITING_MAX:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "too many spans at once: try again later")
        self._waiting_count += 1
        try:
            rejected_count = await self._in_writer(self._keep, request)
        except sqlite3.OperationalError as error:  # A full disk, as a rule.
            log.warning("spans_not_kept error=%s", error)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "spans cannot be kept just now")
        finally:
            self._waiting_count -= 1
        answer = ExportTraceServiceResponse()
        if rejected_count:
            answer.partial_success.rejected_spans = rejected_count
            answer.partial_success.error_message = "spans need valid ids and times"
        return answer

    async def keep_bounds(self) -> None:
        """Let go of old traces also when no new ones come. Until cancelled."""
        while True:
            try:
                await self._in_writer(self._store.trim)
            except sqlite3.OperationalError as error:
                log.warning("traces_not_trimmed error=%s", error)
            await asyncio.sleep(TRIM_EVERY_S)

    def close(self) -> None:
        self._writer.shutdown()
        self._store.close()

    def _keep(self, request: ExportTraceServiceRequest) -> int:
        taken, rejected_count = take_in(request)
        self._store.add(taken)
        return rejected_count

    async def _in_writer(self, work: Any, *arguments: Any) -> Any:  # noqa: ANN401 - Whatever `work` takes and gives.
        return await asyncio.get_running_loop().run_in_executor(self._writer, work, *arguments)


@asynccontextmanager
async def serving(store: TraceStore, address: str) -> AsyncIterator[int]:
    """Listen at `address`; gives the port. Raises RuntimeError if somebody else does."""
    receiver = Receiver(store)
    server = grpc.aio.server(
        options=(("grpc.max_receive_message_length", REQUEST_BYTES_MAX), ("grpc.so_reuseport", 0))
    )
    handler = grpc.unary_unary_rpc_method_handler(
        receiver.export,
        request_deserializer=ExportTraceServiceRequest.FromString,
        response_serializer=ExportTraceServiceResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Export": handler}),))
    alive = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(alive, server)
    port = server.add_insecure_port(address)
    await alive.set("", health_pb2.HealthCheckResponse.SERVING)
    async with asyncio.TaskGroup() as tasks:
        bounds = tasks.create_task(receiver.keep_bounds())
        await server.start()
        try:
            yield port
        finally:
            await server.stop(GRACE_S)
            bounds.cancel()
            receiver.close()
