"""grpc.aio and nothing else: what the library itself costs, one token a message, without any upstream.

`python -m tests.bench.peers.bare_aio PORT [--raw]`. The model's name says how many tokens: `stub-n500-i0`, whatever
its interval, because this is a rate and not a stream. Each token is the time at which it was made. With `--raw`
messages are not built by protobuf but put together from bytes that were serialised once, which is the least that a
server on grpc.aio can do.
"""

import argparse
import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import uvloop
from ollamesh.inference.v1.completion_pb2 import ChatRequest, ChatResponse, CompletionEvent

METHOD = "/ollamesh.inference.v1.InferenceService/Chat"
SCENARIO = re.compile(r"-n(\d+)")
DIGITS = 17  # Zeros in front, so that all tokens are of one length.


def token_count(model: str) -> int:
    found = SCENARIO.search(model)
    return int(found[1]) if found else 1


def token(sent_ns: int) -> str:
    """Return its text, on the clock that all processes of a machine share."""
    return f"~{sent_ns:0{DIGITS}} "


def message(text: str) -> ChatResponse:
    return ChatResponse(event=CompletionEvent(delta=CompletionEvent.Delta(text=text, token_count=1)))


FINISHED = ChatResponse(event=CompletionEvent(finished=CompletionEvent.Finished()))


async def built(request: ChatRequest, _: object) -> AsyncIterator[ChatResponse]:
    for _ in range(token_count(request.model)):
        yield message(token(time.monotonic_ns()))
    yield FINISHED


async def raw(request: ChatRequest, _: object) -> AsyncIterator[bytes]:
    nothing = token(0)
    before, _, after = message(nothing).SerializeToString().partition(nothing.encode())
    for _ in range(token_count(request.model)):
        yield before + token(time.monotonic_ns()).encode() + after
    yield FINISHED.SerializeToString()


def handler(*, is_raw: bool) -> grpc.GenericRpcHandler:
    serializer: Any = None if is_raw else ChatResponse.SerializeToString
    method = grpc.unary_stream_rpc_method_handler(
        raw if is_raw else built,
        request_deserializer=ChatRequest.FromString,
        response_serializer=serializer,
    )
    _, service, name = METHOD.split("/")
    return grpc.method_handlers_generic_handler(service, {name: method})


async def serve(port: int, *, is_raw: bool) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((handler(is_raw=is_raw),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--raw", action="store_true")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options.port, is_raw=options.raw))


if __name__ == "__main__":
    main()
