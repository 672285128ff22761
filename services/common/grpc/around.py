"""The path of every call through a server: what is around it, checks, one parse and one validation.

One interceptor does it all, because each costs a lookup and a closure per call, and because the order
matters: who is calling is known before a byte of the request is parsed. Requests are parsed here and
not by gRPC, which answers malformed ones with INTERNAL.

All of this is done once for each call. For each message of a stream there is one step of its generator and one write.
An idle stream holds on to all that it is in: so arounds are functions and not context managers, which weigh three times
as much.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from functools import partial
from inspect import iscoroutinefunction
from typing import Any

import grpc
import grpc.aio

from services.common.grpc.validation import parse

Context = grpc.aio.ServicerContext[Any, Any]
Rest = Callable[[], Awaitable[object]]  # Of a call.
Around = Callable[[str, Context, Rest], Awaitable[object]]
Check = Callable[[str, Context], Awaitable[None]]


# Of the call under way: gRPC makes it anew whenever it is asked.
_received: ContextVar[Any] = ContextVar("metadata", default=())


def received() -> Any:
    """The metadata that the call came with."""
    return _received.get() or ()


class Interceptor(grpc.aio.ServerInterceptor):
    """Wraps every method, unary or streaming, in `arounds`, outermost first; `checks` come inside of them, in turn.

    What has nothing to do when a call ends is a check.
    """

    def __init__(self, arounds: Sequence[Around], checks: Sequence[Check] = ()) -> None:
        self._arounds = tuple(arounds)
        self._checks = tuple(checks)
        self._wrapped: dict[str, grpc.RpcMethodHandler] = {}  # Bounded by the methods that are served.

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        method = handler_call_details.method
        _received.set(handler_call_details.invocation_metadata)
        if (wrapped := self._wrapped.get(method)) is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None  # Unknown method: gRPC answers UNIMPLEMENTED.
            wrapped = self._wrapped[method] = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        if handler.request_streaming:
            inner: Any = handler.stream_stream or handler.stream_unary
        else:
            inner = handler.unary_stream or handler.unary_unary

        deserializer: Any = handler.request_deserializer
        serialize: Any = handler.response_serializer
        request_of = partial(_parsed if handler.request_streaming else parse, deserializer)

        async def answer(received: Any, context: Context) -> Any:
            return await inner(request_of(received), context)

        # Servicers are generators, but gRPC gets a coroutine that writes: left to gRPC, a generator
        # cancelled during a write is closed later, by the garbage collector, in another task. What they yield
        # may be serialised already.
        async def write_all(received: Any, context: Context) -> None:
            async with aclosing(inner(request_of(received), context)) as responses:
                async for response in responses:
                    await context.write(response if type(response) is bytes else serialize(response))

        # gRPC's own health service writes by itself.
        is_generator = handler.response_streaming and not iscoroutinefunction(inner)
        work = write_all if is_generator else answer

        async def checked(received: Any, context: Context) -> Any:
            for check in self._checks:
                await check(method, context)
            return await work(received, context)

        # gRPC inspects it with iscoroutinefunction: keep it plain.
        async def handle(received: Any, context: Context) -> Any:
            rest: Rest = partial(checked, received, context)
            for around in reversed(self._arounds):
                rest = partial(around, method, context, rest)
            return await rest()

        ends = ("unary", "stream")
        arity = f"{ends[handler.request_streaming]}_{ends[handler.response_streaming]}"
        make = getattr(grpc, f"{arity}_rpc_method_handler")
        return make(handle, response_serializer=None if is_generator else serialize)


async def _parsed(deserializer: Callable[[bytes], Any], received: Any) -> AsyncIterator[Any]:
    async for part in received:
        yield parse(deserializer, part)
