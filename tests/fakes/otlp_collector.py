"""A collector of traces, as OpenTelemetry's is to those who send: a real gRPC server that keeps what it gets."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
ARRIVE_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A span, and of which service it is."""

    service: str
    span: Span

    @property
    def name(self) -> str:
        return self.span.name

    @property
    def trace_id(self) -> str:
        return self.span.trace_id.hex()

    @property
    def span_id(self) -> str:
        return self.span.span_id.hex()

    @property
    def parent_id(self) -> str:
        return self.span.parent_span_id.hex()

    @property
    def kind(self) -> str:
        return Span.SpanKind.Name(self.span.kind).removeprefix("SPAN_KIND_")

    @property
    def attributes(self) -> dict[str, Any]:
        return {one.key: _value(one.value) for one in self.span.attributes}

    @property
    def events(self) -> list[str]:
        return [event.name for event in self.span.events]

    @property
    def failed(self) -> bool:
        return self.span.status.code == self.span.status.STATUS_CODE_ERROR


@dataclass(slots=True)
class Collector:
    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    request_count: int = 0
    refusal: grpc.StatusCode | None = None  # Of all that comes.
    rejected_count: int = 0  # Of each request, by what it says.
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def named(self, name: str) -> list[Seen]:
        return [one for one in self.seen if one.name == name]

    def text(self) -> str:
        """All that was said, for searching."""
        return "\n".join(f"{one.service} {one.span}" for one in self.seen)

    async def until(self, is_there: Callable[[], object]) -> None:
        """Return when what has come is enough."""
        async with asyncio.timeout(ARRIVE_S_MAX):
            while not is_there():
                self._came.clear()
                await self._came.wait()

    async def one(self, name: str) -> Seen:
        """Return the first span of a name, once it has come."""
        await self.until(lambda: self.named(name))
        return self.named(name)[0]

    async def export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
        self.request_count += 1
        self._came.set()
        if self.refusal is not None:
            await context.abort(self.refusal, "no")
        for resource in request.resource_spans:
            about = {one.key: _value(one.value) for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.seen += [Seen(str(about.get("service.name", "")), span) for span in scope.spans]
        told = ExportTracePartialSuccess(rejected_spans=self.rejected_count)
        return ExportTraceServiceResponse(partial_success=told)


@asynccontextmanager
async def collecting(credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[Collector]:
    server, collector = grpc.aio.server(), Collector()
    handler = grpc.unary_unary_rpc_method_handler(
        collector.export,
        request_deserializer=ExportTraceServiceRequest.FromString,
        response_serializer=ExportTraceServiceResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Export": handler}),))
    collector.port = (
        server.add_insecure_port("127.0.0.1:0")
        if credentials is None
        else server.add_secure_port("127.0.0.1:0", credentials)
    )
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(0)


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind) if kind else None
