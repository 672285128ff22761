"""Calls as spans: what is told of each, however it ends, on both sides; and that a trace goes on from call to call."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
from ollamesh.inference.v1.completion_pb2 import ChatRequest, ChatResponse, Message, Role
from ollamesh.inference.v1.fleet_pb2 import GetFleetRequest, GetFleetResponse
from ollamesh.inference.v1.inference_service_pb2_grpc import (
    InferenceServiceServicer,
    InferenceServiceStub,
    add_InferenceServiceServicer_to_server,
)
from opentelemetry.instrumentation.grpc import aio_client_interceptors
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from prometheus_client import CollectorRegistry

from services.common.errors import Kind, MeshError
from services.common.grpc.around import Context
from services.common.grpc.caller import deadline
from services.common.grpc.client import channel, held
from services.common.grpc.errors import errors
from services.common.grpc.server import Server
from services.common.inside import Inside
from services.common.telemetry import RpcMetrics, telemetry
from services.common.tracing import export
from services.common.tracing.config import TracingConfig
from services.common.tracing.current import current, enter
from services.common.tracing.export import tracing
from services.common.tracing.spans import Kind as SpanKind
from services.common.tracing.spans import Shape
from services.common.tracing.tracer import Tracer
from tests.fakes.otlp_collector import Collector, Seen, collecting
from tests.service.test_call_path import CONFIG

NAME = "ollamesh.inference.v1.InferenceService/"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "postgres://user:hunter2@host"
CHAT = ChatRequest(model="tiny", messages=[Message(role=Role.ROLE_USER, content=SECRET)])
TIMEOUT_S = 60.0


@pytest.fixture(autouse=True)
def _sent_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "EVERY_S", 0.01)


class Full(MeshError):
    kind, reason = Kind.EXHAUSTED, "QUEUE_FULL"
    message = "every place is taken"


class Servicer(InferenceServiceServicer):
    """Does what it is told to."""

    def __init__(self) -> None:
        self.work: Callable[[Context], Any] = lambda _: None
        self.under_way, self.closed = asyncio.Event(), asyncio.Event()

    async def GetFleet(self, request: GetFleetRequest, context: Context) -> GetFleetResponse:
        made = self.work(context)
        if asyncio.iscoroutine(made):
            await made
        return GetFleetResponse()

    async def Chat(self, request: ChatRequest, context: Context) -> AsyncIterator[ChatResponse]:
        try:
            yield ChatResponse()
            self.under_way.set()
            await asyncio.Event().wait()
        finally:
            self.closed.set()


@dataclass(frozen=True, slots=True)
class World:
    servicer: Servicer
    collector: Collector
    stub: Any  # As services have it.
    port: int
    tracer: Tracer
    registry: CollectorRegistry

    async def server_span(self, method: str = "GetFleet", count: int = 1) -> Seen:
        return (await self._spans("SERVER", method, count))[-1]

    async def client_span(self, method: str = "GetFleet") -> Seen:
        return (await self._spans("CLIENT", method, 1))[-1]

    async def _spans(self, kind: str, method: str, count: int) -> list[Seen]:
        def found() -> list[Seen]:
            return [one for one in self.collector.named(NAME + method) if one.kind == kind]

        await self.collector.until(lambda: len(found()) >= count)
        return found()


@asynccontextmanager
async def world(*, percent: float = 100.0) -> AsyncIterator[World]:
    registry, servicer = CollectorRegistry(), Servicer()
    async with collecting() as collector:
        config = TracingConfig(target=collector.target, percent=percent)
        async with tracing(config, "inference", registry) as tracer:
            assert tracer is not None
            server = Server(
                CONFIG,
                [telemetry(RpcMetrics(registry), tracer), errors("inference.ollamesh")],
                [deadline()],
            )
            add_InferenceServiceServicer_to_server(servicer, server.grpc)
            port = server.grpc.add_insecure_port("127.0.0.1:0")
            await server.grpc.start()
            inside = Inside.plain("agent")
            async with channel(f"127.0.0.1:{port}", inside=inside, to="inference") as opened:
                yield World(servicer, collector, InferenceServiceStub(opened), port, tracer, registry)
            await server.grpc.stop(1)


async def refused(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    code: grpc.StatusCode = caught.value.code()
    return code


def fail(error: Exception) -> Callable[[Context], None]:
    def work(_: Context) -> None:
        raise error

    return work


async def test_a_call_is_a_span_that_goes_on_with_its_callers_trace() -> None:
    async with world() as here:
        metadata = (("traceparent", f"00-{TRACE}-{PARENT}-01"), ("tracestate", "vendor=1"))
        await here.stub.GetFleet(GetFleetRequest(), timeout=TIMEOUT_S, metadata=metadata)
        span = await here.server_span()
    assert (span.trace_id, span.parent_id, span.service) == (TRACE, PARENT, "ollamesh-inference")
    assert span.span.trace_state == "vendor=1"
    assert span.attributes == {
        "rpc.system": "grpc",
        "rpc.service": "ollamesh.inference.v1.InferenceService",
        "rpc.method": "GetFleet",
        "rpc.grpc.status_code": 0,
    }
    assert not span.failed
    assert 0 < span.span.start_time_unix_nano <= span.span.end_time_unix_nano


async def test_a_handler_that_raises_is_a_failure_of_the_server() -> None:
    async with world() as here:
        here.servicer.work = fail(ValueError(SECRET))
        assert (
            await refused(here.stub.GetFleet(GetFleetRequest(), timeout=TIMEOUT_S))
            is grpc.StatusCode.INTERNAL
        )
        span = await here.server_span()
        assert (span.attributes["rpc.grpc.status_code"], span.failed) == (13, True)
        assert span.span.status.message == span.attributes["error.type"] == "INTERNAL"
        assert "hunter2" not in here.collector.text()


async def test_an_abort_has_the_code_and_the_reason_that_its_caller_gets() -> None:
    async with world() as here:
        here.servicer.work = fail(Full())
        assert (
            await refused(here.stub.GetFleet(GetFleetRequest(), timeout=TIMEOUT_S))
            is grpc.StatusCode.RESOURCE_EXHAUSTED
        )
        span = await here.server_span()
    assert (span.attributes["rpc.grpc.status_code"], span.attributes["error.type"]) == (8, "QUEUE_FULL")
    assert not span.failed, "the server did what it should"


async def test_a_deadline_that_passes_is_told_as_that() -> None:
    async with world() as here:
        here.servicer.work = lambda _: asyncio.Event().wait()
        assert (
            await refused(here.stub.GetFleet(GetFleetRequest(), timeout=0.2))
            is grpc.StatusCode.DEADLINE_EXCEEDED
        )
        span = await here.server_span()
    assert (span.attributes["rpc.grpc.status_code"], span.failed) == (4, True)


async def test_a_stream_that_its_caller_cancels_is_a_span_on_both_sides() -> None:
    """What the contrib instrumentation never exports."""
    async with world() as here:
        root = here.tracer.begin(Shape("test", SpanKind.INTERNAL))
        enter(root)
        with held(here.stub.Chat(CHAT, timeout=TIMEOUT_S)) as call:
            await call.read()
        server, client = await here.server_span("Chat"), await here.client_span("Chat")
        await asyncio.wait_for(here.servicer.closed.wait(), TIMEOUT_S)
    assert server.attributes["rpc.grpc.status_code"] == client.attributes["rpc.grpc.status_code"] == 1
    assert not server.failed
    assert server.parent_id == client.span_id
    assert client.parent_id == root.span_id.hex()
    assert SECRET not in here.collector.text()


async def test_a_call_that_is_made_within_a_call_is_its_child_and_leaves_with_it() -> None:
    async with world() as here:

        async def onwards(_: Context) -> None:
            here.servicer.work = lambda _: None
            await here.stub.GetFleet(GetFleetRequest(), timeout=TIMEOUT_S)

        here.servicer.work = onwards
        await here.stub.GetFleet(GetFleetRequest(), timeout=TIMEOUT_S)
        await here.server_span(count=2)
        inner, whole = (one for one in here.collector.named(f"{NAME}GetFleet") if one.kind == "SERVER")
        client = await here.client_span()
    assert [client.parent_id, inner.parent_id] == [whole.span_id, client.span_id]
    assert inner.trace_id == whole.trace_id


async def test_a_unary_call_that_its_caller_leaves_ends_at_the_server() -> None:
    """What the contrib interceptor of clients loses."""
    async with world() as here:
        left, begun = asyncio.Event(), asyncio.Event()

        async def wait(_: Context) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                left.set()

        async def ask() -> None:
            enter(here.tracer.begin(Shape("test", SpanKind.INTERNAL)))
            await here.stub.GetFleet(GetFleetRequest(), timeout=TIMEOUT_S)

        here.servicer.work = wait
        asking = asyncio.create_task(ask())
        await begun.wait()
        asking.cancel()
        await asyncio.wait([asking])
        await asyncio.wait_for(left.wait(), TIMEOUT_S)
        client = await here.client_span()
    assert client.attributes["rpc.grpc.status_code"] == 1


async def test_what_is_not_sampled_is_recorded_nowhere_but_goes_on_unsampled() -> None:
    async with world(percent=0) as here:
        seen: list[Any] = []
        here.servicer.work = lambda context: seen.append(
            (current(), dict(context.invocation_metadata() or {}))
        )
        await here.stub.GetFleet(GetFleetRequest(), timeout=TIMEOUT_S)
        await here.stub.GetFleet(
            GetFleetRequest(), timeout=TIMEOUT_S, metadata=(("traceparent", f"00-{TRACE}-{PARENT}-00"),)
        )

        async def onwards(_: Context) -> None:
            here.servicer.work = lambda context: seen.append(
                (current(), dict(context.invocation_metadata() or {}))
            )
            await here.stub.GetFleet(GetFleetRequest(), timeout=TIMEOUT_S)

        here.servicer.work = onwards
        await here.stub.GetFleet(GetFleetRequest(), timeout=TIMEOUT_S)
        # A caller who samples is followed, whatever is decided here of those who do not say.
        await here.stub.GetFleet(
            GetFleetRequest(), timeout=TIMEOUT_S, metadata=(("traceparent", f"00-{TRACE}-{PARENT}-01"),)
        )
        await here.server_span()
    assert [one.trace_id for one in here.collector.seen] == [TRACE]
    assert [span.is_sampled for span, _ in seen[:3]] == [False, False, False]
    assert seen[2][1]["traceparent"].endswith("-00")
    assert seen[1][0].trace_id.hex() == TRACE


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "00-0-0-01",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
    ],
)
async def test_a_context_that_makes_no_sense_is_no_context(parent: str) -> None:
    async with world() as here:
        await here.stub.GetFleet(
            GetFleetRequest(),
            timeout=TIMEOUT_S,
            metadata=(("traceparent", parent), ("traceparent", parent))[:1],
        )
        span = await here.server_span()
    assert (span.parent_id, span.trace_id == TRACE) == ("", False)


async def test_callers_with_opentelemetrys_own_instrumentation_have_our_spans_in_their_traces() -> None:
    """It is a judge here: of the headers, and of the bytes."""
    theirs: list[ReadableSpan] = []

    class Keep(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            theirs.append(span)

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Keep())
    async with world() as here:
        interceptors = aio_client_interceptors(tracer_provider=provider)  # type: ignore[no-untyped-call]
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{here.port}", interceptors=interceptors
        ) as instrumented:
            await InferenceServiceStub(instrumented).GetFleet(GetFleetRequest(), timeout=TIMEOUT_S)
        span = await here.server_span()
    made = theirs[0].get_span_context()
    assert made is not None
    assert (span.trace_id, span.parent_id) == (f"{made.trace_id:032x}", f"{made.span_id:016x}")


async def test_a_histogram_leads_to_a_trace_that_is_recorded_and_to_no_other() -> None:
    def exemplars(registry: CollectorRegistry) -> list[dict[str, str]]:
        return [
            sample.exemplar.labels
            for metric in registry.collect()
            for sample in metric.samples
            if sample.name == "ollamesh_rpc_duration_seconds_bucket" and sample.exemplar
        ]

    async with world() as here:
        await here.stub.GetFleet(GetFleetRequest(), timeout=TIMEOUT_S)
        span = await here.server_span()
        assert exemplars(here.registry) == [{"trace_id": span.trace_id, "span_id": span.span_id}]
    async with world(percent=0) as here:
        await here.stub.GetFleet(GetFleetRequest(), timeout=TIMEOUT_S)
        assert exemplars(here.registry) == []
