"""What holds for every call of every service: deadlines, identity, parsing, failures, cancellation."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ollamesh.inference.v1.completion_pb2 import ChatRequest, ChatResponse, Message, Role
from ollamesh.inference.v1.fleet_pb2 import GetFleetRequest, GetFleetResponse, WatchFleetRequest
from ollamesh.inference.v1.inference_service_pb2_grpc import (
    InferenceServiceServicer,
    InferenceServiceStub,
    add_InferenceServiceServicer_to_server,
)
from prometheus_client import CollectorRegistry

from services.common.errors import Kind, MeshError
from services.common.grpc.around import Context
from services.common.grpc.caller import deadline
from services.common.grpc.errors import errors
from services.common.grpc.server import Server, ServerConfig
from services.common.inside import Inside
from services.common.telemetry import RpcMetrics, telemetry

CONFIG = ServerConfig(
    inside=Inside.plain("auth"),
    bind="127.0.0.1",
    port=0,
    metrics_port=0,
    reflection=False,
    lame_duck_s=0,
    grace_s=1,
)
CHAT = ChatRequest(model="tiny", messages=[Message(role=Role.ROLE_USER, content="hello")])


class Full(MeshError):
    kind, reason = Kind.EXHAUSTED, "QUEUE_FULL"
    message = "every place is taken"
    retry_after_s = 1.5


class Servicer(InferenceServiceServicer):
    """Streams until its caller leaves; fails on request."""

    def __init__(self) -> None:
        self.streaming, self.closed = asyncio.Event(), asyncio.Event()
        self.failure: Exception | None = None

    async def GetFleet(self, request: GetFleetRequest, context: Context) -> GetFleetResponse:
        if self.failure:
            raise self.failure
        return GetFleetResponse()

    async def Chat(self, request: ChatRequest, context: Context) -> AsyncIterator[ChatResponse]:
        try:
            while True:
                yield ChatResponse()
                self.streaming.set()
                await asyncio.sleep(0)
        finally:
            self.closed.set()


@asynccontextmanager
async def serving(
    servicer: Servicer, registry: CollectorRegistry | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    metrics = RpcMetrics(registry or CollectorRegistry())
    server = Server(CONFIG, [telemetry(metrics), errors("inference.ollamesh")], [deadline()])
    add_InferenceServiceServicer_to_server(servicer, server.grpc)
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def ready() -> bool:
        return True

    task = asyncio.create_task(server.serve(stop, services=(), ready=ready, started=port.set_result))
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{await port}") as channel:
            yield channel
    finally:
        stop.set()
        await task


def health_stub(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)


def details(error: grpc.aio.AioRpcError) -> tuple[ErrorInfo, Status]:
    trailing = dict(error.trailing_metadata() or ())
    status = Status.FromString(trailing["grpc-status-details-bin"])
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return info, status


async def refused(call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return caught.value


async def test_a_failure_has_status_reason_facts_and_delay() -> None:
    servicer = Servicer()
    servicer.failure = Full(waiting_max=3)
    async with serving(servicer) as channel:
        error = await refused(InferenceServiceStub(channel).GetFleet(GetFleetRequest(), timeout=5))
    info, status = details(error)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (info.reason, info.domain, dict(info.metadata)) == (
        "QUEUE_FULL",
        "inference.ollamesh",
        {"waiting_max": "3"},
    )
    retry = RetryInfo()
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 1500


async def test_a_bug_says_nothing() -> None:
    servicer = Servicer()
    servicer.failure = ValueError("postgres://user:secret@host")
    async with serving(servicer) as channel:
        error = await refused(InferenceServiceStub(channel).GetFleet(GetFleetRequest(), timeout=5))
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error")


async def test_a_method_without_an_implementation_says_so() -> None:
    async with serving(Servicer()) as channel:
        error = await refused(InferenceServiceStub(channel).WatchFleet(WatchFleetRequest(), timeout=5).read())
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert details(error)[0].reason == "NOT_IMPLEMENTED"


async def test_a_call_needs_a_deadline_but_a_health_check_does_not() -> None:
    async with serving(Servicer()) as channel:
        error = await refused(InferenceServiceStub(channel).GetFleet(GetFleetRequest()))
        health = await health_stub(channel).Check(health_pb2.HealthCheckRequest(service="liveness"))
    assert details(error)[0].reason == "DEADLINE_REQUIRED"
    assert health.status == health_pb2.HealthCheckResponse.SERVING


async def test_health_can_be_watched_as_well_as_asked() -> None:
    async with serving(Servicer()) as channel:
        watch = health_stub(channel).Watch(health_pb2.HealthCheckRequest(service="liveness"))
        first = await asyncio.wait_for(watch.read(), 30)
        watch.cancel()
    assert first.status == health_pb2.HealthCheckResponse.SERVING


async def test_every_broken_rule_is_named() -> None:
    request = ChatRequest(
        model="../etc", messages=[Message(content="x"), Message(role=Role.ROLE_USER, content="x")]
    )
    request.options.temperature = float("nan")
    async with serving(Servicer()) as channel:
        error = await refused(InferenceServiceStub(channel).Chat(request, timeout=5).read())
    info, status = details(error)
    bad = BadRequest()
    assert status.details[1].Unpack(bad)
    assert (error.code(), info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert {violation.field for violation in bad.field_violations} == {
        "model",
        "messages[0].role",
        "options.temperature",
    }


@pytest.mark.parametrize("raw", [b"\x12\x02\xff\xff", b"\xff\xff\xff"], ids=["not UTF-8", "not protobuf"])
async def test_bytes_that_are_no_message_are_the_callers_mistake(raw: bytes) -> None:
    async with serving(Servicer()) as channel:
        chat: Any = channel.unary_stream("/ollamesh.inference.v1.InferenceService/Chat")
        error = await refused(chat(raw, timeout=5).read())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_cancelled_stream_is_closed_and_counted_at_once() -> None:
    servicer, registry = Servicer(), CollectorRegistry()
    async with serving(servicer, registry) as channel:
        call = InferenceServiceStub(channel).Chat(CHAT, timeout=60)
        await servicer.streaming.wait()
        call.cancel()
        await asyncio.wait_for(servicer.closed.wait(), 30)
    labels = {"method": "/ollamesh.inference.v1.InferenceService/Chat", "code": "CANCELLED"}
    assert registry.get_sample_value("ollamesh_rpc_handled_total", labels) == 1
    assert registry.get_sample_value("ollamesh_rpc_in_flight") == 0


async def test_a_deadline_ends_the_work() -> None:
    servicer = Servicer()
    async with serving(servicer) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in InferenceServiceStub(channel).Chat(CHAT, timeout=0.2):
                pass
        await asyncio.wait_for(servicer.closed.wait(), 30)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_nobody_is_told_of_a_failure_after_their_deadline() -> None:
    """The status could not be sent, and gRPC would lose its memory: the call just ends."""

    class Late:
        def time_remaining(self) -> float:
            return 0.0

    async def fail() -> None:
        raise Full(waiting_max=3)

    late: Any = Late()  # Without `abort`.
    with pytest.raises(asyncio.CancelledError):
        await errors("inference.ollamesh")("/test/Method", late, fail)
