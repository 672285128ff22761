"""The path of every call through a server: context managers around one parse and one validation.

One interceptor does it all, because each costs a lookup and a closure per call, and because the order
matters: who is calling is known before a byte of the request is parsed. Requests are parsed here and
not by gRPC, which answers malformed ones with INTERNAL.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import Any

import grpc
import grpc.aio

from services.common.grpc.validation import parse

Context = grpc.aio.ServicerContext[Any, Any]
Around = Callable[[str, Context], AbstractAsyncContextManager[None]]


class Interceptor(grpc.aio.ServerInterceptor):
    """Wraps every method, unary or streaming, in `arounds`, outermost first."""

    def __init__(self, arounds: Sequence[Around]) -> None:
        self._arounds = tuple(arounds)
        self._wrapped: dict[str, grpc.RpcMethodHandler] = {}  # Bounded by the methods that are served.

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        method = handler_call_details.method
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

        # gRPC inspects these with iscoroutinefunction: keep them plain.
        async def unary(received: Any, context: Context) -> Any:
            async with self._entered(method, context):
                return await inner(request_of(received), context)

        # Servicers are generators, but gRPC gets a coroutine that writes: left to gRPC, a generator
        # cancelled during a write is closed later, by the garbage collector, in another task. What they yield
        # may be serialised already.
        async def stream(received: Any, context: Context) -> None:
            async with (
                self._entered(method, context),
                aclosing(inner(request_of(received), context)) as responses,
            ):
                async for response in responses:
                    await context.write(response if type(response) is bytes else serialize(response))

        ends = ("unary", "stream")
        arity = f"{ends[handler.request_streaming]}_{ends[handler.response_streaming]}"
        make = getattr(grpc, f"{arity}_rpc_method_handler")
        if handler.response_streaming:
            return make(stream)
        return make(unary, response_serializer=serialize)

    @asynccontextmanager
    async def _entered(self, method: str, context: Context) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for around in self._arounds:
                await stack.enter_async_context(around(method, context))
            yield


async def _parsed(deserializer: Callable[[bytes], Any], received: Any) -> AsyncIterator[Any]:
    async for part in received:
        yield parse(deserializer, part)
