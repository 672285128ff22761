"""Calls as spans: those that are answered here, and those that are made.

`opentelemetry-instrumentation-grpc` would do either wrongly (decision: tracing): its servers lose the status of calls that
fail, its clients the cancellation of those who ask.
"""

import asyncio
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Self

import grpc
import grpc.aio

from services.common.tracing.current import Current, current, enter
from services.common.tracing.names import CODE
from services.common.tracing.spans import Kind, Remote, Shape, Span
from services.common.tracing.tracer import Tracer
from services.common.tracing.w3c import Metadata, read, written

METHODS_MAX = 1024
_FINE = {CODE: 0}
# What parts ask of auth by the clock, for nobody's call. Each would be a trace of its own, and soon there would be no others.
_BY_CLOCK = frozenset(
    f"/ollamesh.auth.v1.{method}"
    for method in ("OAuthService/GetJwks", "AuthService/RecordAuditEvents", "AuthService/SettleQuota")
)
# Those by which a server says that it failed, and not its caller, by OpenTelemetry's conventions.
_FAILURES = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)


@lru_cache(METHODS_MAX)
def _server(method: str) -> Shape:
    return _shape(method, Kind.SERVER)


@lru_cache(METHODS_MAX)
def _client(method: str) -> Shape:
    return _shape(method, Kind.CLIENT)


def _shape(method: str, kind: Kind) -> Shape:
    """What all spans of a method have in common; `method` as on the wire."""
    service, _, name = method.removeprefix("/").rpartition("/")
    return Shape(
        f"{service}/{name}", kind, {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
    )


def begun(tracer: Tracer, method: str, metadata: Metadata) -> Span | Remote | None:
    """The span of a call, from now on under way in its context; None for what is asked by the clock."""
    parent = read(metadata)
    if parent is None and method in _BY_CLOCK:
        return None
    span = tracer.begin(_server(method), parent)
    enter(span)
    return span


def answered(span: Span | Remote, code: grpc.StatusCode) -> None:
    """The call has ended like this."""
    if isinstance(span, Span):
        if code is grpc.StatusCode.OK:
            span.set(_FINE)
        else:
            span.set({CODE: code.value[0]})
            if code in _FAILURES:
                span.fail(code.name)
        span.end()


class TracedChannel(grpc.aio.Channel):
    """A channel whose calls go on with the trace that they are made in."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def unary_unary(self, method: str, *args: Any, **options: Any) -> Any:
        return _traced(method, self._channel.unary_unary(method, *args, **options))

    def unary_stream(self, method: str, *args: Any, **options: Any) -> Any:
        return _traced(method, self._channel.unary_stream(method, *args, **options))

    def stream_unary(self, method: str, *args: Any, **options: Any) -> Any:
        return _traced(method, self._channel.stream_unary(method, *args, **options))

    def stream_stream(self, method: str, *args: Any, **options: Any) -> Any:
        return _traced(method, self._channel.stream_stream(method, *args, **options))

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - gRPC's.
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()


def _traced(method: str, make: Callable[..., Any]) -> Callable[..., Any]:
    def call(*request: Any, metadata: Any = None, **how: Any) -> Any:
        parent = current()
        if parent is None:
            return make(*request, metadata=metadata, **how)
        span: Current = parent
        if isinstance(parent, Span):
            span = parent.child(_client(method))
        made = make(*request, metadata=(*(metadata or ()), *written(span or parent)), **how)
        if isinstance(span, Span):
            made.add_done_callback(partial(_ended, span))
        return made

    return call


def _ended(span: Span, call: Any) -> None:
    """Its client hears of a call's end in whatever way it comes, a cancellation by itself among them."""
    code = _code(call)
    span.set({CODE: code.value[0]})
    if code is not grpc.StatusCode.OK:
        span.fail(code.name)
    span.end()


def _code(call: Any) -> grpc.StatusCode:
    """The status of a call. It is told by a coroutine alone, which has nothing to wait for once the call has ended."""
    asking = call.code()
    try:
        asking.send(None)
    except StopIteration as told:
        return grpc.StatusCode(told.value) if told.value is not None else grpc.StatusCode.UNKNOWN
    except asyncio.CancelledError:
        return grpc.StatusCode.CANCELLED
    asking.close()
    return grpc.StatusCode.CANCELLED if call.cancelled() else grpc.StatusCode.UNKNOWN
