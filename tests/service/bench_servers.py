"""gRPC servers for the load generator to be tried on: one like ours, and one that sends what the protocol allows."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc.aio
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)

PREFACE_BYTES = 24
REFUSED_STREAM = 7
Handler = Callable[[bytes, Any], AsyncIterator[bytes]]


def token() -> bytes:
    return b"~%017d " % time.monotonic_ns()


# ---- A server of grpc.aio


async def tokens(request: bytes, _: Any) -> AsyncIterator[bytes]:
    """As many tokens as asked for, a message each."""
    for _index in range(int(request.split()[0])):
        yield b"\x0a\x13" + token()


async def paced(request: bytes, _: Any) -> AsyncIterator[bytes]:
    for _index in range(int(request)):
        await asyncio.sleep(0.001)
        yield token()


async def huge(request: bytes, _: Any) -> AsyncIterator[bytes]:
    yield b"".join(token() for _ in range(int(request)))


async def refuse(_request: bytes, context: Any) -> AsyncIterator[bytes]:
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full: 20 % more than it holds")
    yield b""


async def cut(_request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield token()
    await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")


class Calls(grpc.GenericRpcHandler):
    """Handlers by path, and what was asked of them."""

    def __init__(self, handlers: dict[str, Handler]) -> None:
        self.metadata: list[dict[str, str]] = []
        self.requests: list[bytes] = []
        self.deadlines_s: list[float] = []
        self.cancelled_count = 0
        self._handlers = handlers

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        handler = self._handlers[details.method]

        async def handle(request: bytes, context: Any) -> AsyncIterator[bytes]:
            self.metadata.append({key: str(value) for key, value in context.invocation_metadata()})
            self.requests.append(request)
            self.deadlines_s.append(context.time_remaining())
            try:
                async for message in handler(request, context):
                    yield message
            except asyncio.CancelledError:
                self.cancelled_count += 1
                raise

        return grpc.unary_stream_rpc_method_handler(handle)


@asynccontextmanager
async def grpc_server(**options: int) -> AsyncIterator[tuple[int, Calls]]:
    calls = Calls({"/tokens": tokens, "/paced": paced, "/huge": huge, "/refuse": refuse, "/cut": cut})
    server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", -1), *((f"grpc.{k}", v) for k, v in options.items())]
    )
    server.add_generic_rpc_handlers((calls,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port, calls
    finally:
        await server.stop(0)


# ---- A server that writes its own frames


class Frames:
    """One connection at the level of frames. Its header table is as large as the protocol's default, whatever the
    client wants: a server may use it so until it has seen the client's SETTINGS.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._encoder = Encoder()

    async def read(self) -> Frame:
        frame, size = Frame.parse_frame_header(memoryview(await self._reader.readexactly(9)))
        frame.parse_body(memoryview(await self._reader.readexactly(size)))
        return frame

    async def asked(self) -> int:
        """Wait for the next whole request and return its stream."""
        while True:
            frame = await self.read()
            if isinstance(frame, DataFrame) and "END_STREAM" in frame.flags:
                return int(frame.stream_id)

    def send(self, *frames: Frame) -> None:
        self._writer.write(b"".join(frame.serialize() for frame in frames))

    def headers(self, stream_id: int, *fields: tuple[str, str], end: bool = False) -> list[Frame]:
        """A header block in three frames, the first one padded."""
        block = self._encoder.encode(list(fields))
        first = HeadersFrame(
            stream_id, block[:3], pad_length=5, flags=["PADDED", *(["END_STREAM"] if end else [])]
        )
        second = ContinuationFrame(stream_id, block[3:9])
        return [first, second, ContinuationFrame(stream_id, block[9:], flags=["END_HEADERS"])]


def message(content: bytes) -> bytes:
    return b"\0" + len(content).to_bytes(4, "big") + content


def answered(frames: Frames, stream_id: int, **trailers: str) -> list[Frame]:
    """Two tokens, the first in many small padded frames, and trailers."""
    opening = frames.headers(
        stream_id,
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("x-all", "".join(map(chr, range(32, 127)))),
        ("x-each", f"value {stream_id}"),
    )
    content = message(token() + b"~ and ~123 are no tokens ")
    pieces: list[Frame] = [
        DataFrame(stream_id, content[index : index + 3], pad_length=index % 7, flags=["PADDED"])
        for index in range(0, len(content), 3)
    ]
    whole = DataFrame(stream_id, message(token()))
    ending = frames.headers(
        stream_id,
        ("grpc-status", "0"),
        *((name.replace("_", "-"), text) for name, text in trailers.items()),
        end=True,
    )
    return [*opening, *pieces, whole, *ending]


async def odd(frames: Frames) -> None:
    """Everything that is allowed and unusual, on every stream."""
    while True:
        stream_id = await frames.asked()
        frames.send(
            PingFrame(0, b"whatever"),
            Frame.__new__(_Unknown),
            *answered(frames, stream_id, grpc_message=f"message {stream_id}"),
        )


async def leaving(frames: Frames) -> None:
    """Say good-bye after the first request, serve that one, and take no more."""
    stream_id = await frames.asked()
    frames.send(GoAwayFrame(0, last_stream_id=stream_id), *answered(frames, stream_id))


async def resetting(frames: Frames) -> None:
    while True:
        frames.send(RstStreamFrame(await frames.asked(), REFUSED_STREAM))


async def slow_to_make_room(frames: Frames) -> None:
    """Refuse every stream until a busy server's moment has passed."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + 0.05
    while True:
        stream_id = await frames.asked()
        if loop.time() < until_s:
            frames.send(RstStreamFrame(stream_id, REFUSED_STREAM))
        else:
            frames.send(*answered(frames, stream_id))


class _Unknown(Frame):
    """A frame of a type that nobody knows."""

    def serialize(self) -> bytes:
        return b"\0\0\2\xee\0\0\0\0\0hi"


@asynccontextmanager
async def frame_server(serve: Callable[[Frames], Awaitable[None]]) -> AsyncIterator[int]:
    """Speak HTTP/2 as `serve` does, after the shaking of hands."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = Frames(reader, writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readexactly(PREFACE_BYTES)
            frames.send(
                SettingsFrame(
                    0, {SettingsFrame.INITIAL_WINDOW_SIZE: 100, SettingsFrame.MAX_CONCURRENT_STREAMS: 2}
                )
            )
            await serve(frames)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
