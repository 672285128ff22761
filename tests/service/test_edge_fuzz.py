"""What nobody should send: malformed HTTP/1, HTTP/2, gRPC and gRPC-Web, floods, and clients that take their time.

Whatever comes, the edge stays up, answers honest callers, holds on to little memory, and no service hears of any of it.
Each seed draws another series of bytes; a failure names it.
"""

import asyncio
import base64
import random
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import hpack
import psutil
import pytest
import pytest_asyncio
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from services.common.grpc.client import bearer
from tests.service import auth_app, edge_web
from tests.service.auth_app import TIMEOUT_S
from tests.service.edge_app import CHAT, GET_FLEET, LOOPBACK, World, whole
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SEEDS = range(4)
GROWTH_BYTES_MAX = 64 * 1024 * 1024
SHUT_WITHIN_S = 30.0  # Longest that a client may take over its headers, and some.
ANSWER_BYTES_MAX = 1 << 20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(module_database: Database) -> AsyncIterator[World]:
    async with whole(auth_app.config(module_database("auth"))) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="module")
async def world(running: World) -> AsyncIterator[World]:
    """The edge; afterwards, what must hold whatever was sent."""
    for replica in running.replicas.values():
        replica.echo.reset()
    before_bytes = _envoy(running).memory_info().rss
    yield running
    assert running.calls() == 0, "a service heard of it"
    token = await running.stack.token()
    assert await running.stack.unary(GET_FLEET)(b"x", metadata=bearer(token), timeout=TIMEOUT_S) == b"x"
    assert _envoy(running).memory_info().rss - before_bytes < GROWTH_BYTES_MAX


def _envoy(world: World) -> psutil.Process:
    for connection in psutil.net_connections("tcp"):
        address, listens = connection.laddr, connection.status == psutil.CONN_LISTEN
        if listens and address and address.port == world.stack.port and connection.pid:
            return psutil.Process(connection.pid)
    raise AssertionError("the edge has ended")


@asynccontextmanager
async def connected(world: World) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(LOOPBACK, world.stack.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def answer_to(world: World, sent: bytes, *, hang_up: bool = True) -> bytes:
    """Send bytes and, unless told otherwise, the end; return what comes back until the edge hangs up."""
    async with connected(world) as (reader, writer), asyncio.timeout(SHUT_WITHIN_S):
        with suppress(ConnectionError):
            writer.write(sent)
            await writer.drain()
            if hang_up and writer.can_write_eof():
                writer.write_eof()
        with suppress(ConnectionError):
            return await reader.read(ANSWER_BYTES_MAX)
    return b""


def honest(path: str = CHAT, body: bytes = edge_web.frame(b"hello")) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nhost: edge\r\ncontent-type: {edge_web.PROTO}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


# HTTP/1


@pytest.mark.parametrize("seed", SEEDS)
async def test_mutated_http1_reaches_nobody(world: World, seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(150):
        sent = bytearray(honest())
        for _ in range(draw.randint(1, 12)):
            place = draw.randrange(len(sent))
            match draw.randrange(4):
                case 0:
                    sent[place] = draw.randrange(256)
                case 1:
                    del sent[place : place + draw.randint(1, 20)]
                case 2:
                    sent[place:place] = draw.randbytes(draw.randint(1, 20))
                case _:
                    sent[place:place] = draw.choice(
                        [b"\r\n", b"\0", b"\n", b" ", b"chunked", b": ", b"HTTP/1.1"]
                    )
            if not sent:
                break
        answer = await answer_to(world, bytes(sent))
        assert not answer.startswith(b"HTTP/1.1 200") or b"grpc-status: 0" not in answer, (seed, bytes(sent))


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 5\r\ntransfer-encoding: chunked",
        b"content-length: 5\r\ncontent-length: 6",
        b"content-length: -1",
        b"content-length: 99999999999999999999",
        b"transfer-encoding: chunked, identity",
        b"transfer-encoding: \x0bchunked",
        b"transfer-encoding : chunked",
        b"host: other",
        b"x-a: b\r\n folded: c",
        b"x-a\x00b: c",
        b"x-a: b\x00c",
    ],
)
async def test_what_could_be_read_in_two_ways_is_refused(world: World, head: bytes) -> None:
    """Request smuggling lives on that (RFC 9112 section 6.3)."""
    smuggled = b"GET /smuggled HTTP/1.1\r\nhost: edge\r\n\r\n"
    sent = b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: edge\r\n" + head + b"\r\n\r\n0\r\n\r\n" + smuggled
    answer = await answer_to(world, sent)
    assert answer.split(b" ")[1:2] in ([b"400"], [b"401"], [b"501"], []), answer[:200]
    assert b" 404 " not in answer, "the request inside was taken for one"


async def test_headers_that_are_too_large_are_refused(world: World) -> None:
    for head in (b"x-a: " + b"a" * 200_000, b"\r\n".join(b"x-%d: a" % n for n in range(5_000))):
        answer = await answer_to(world, b"GET / HTTP/1.1\r\nhost: edge\r\n" + head + b"\r\n\r\n")
        assert answer.split(b" ")[1:2] in ([b"431"], [b"400"], []), answer[:100]


async def test_who_never_ends_his_headers_is_shut_out(world: World) -> None:
    """Slowloris: fifty of them, and nobody waits longer than a person would."""

    async def drip() -> None:
        async with connected(world) as (reader, writer), asyncio.timeout(SHUT_WITHIN_S):
            with suppress(ConnectionError):
                writer.write(b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: edge\r\n")
                while not reader.at_eof():
                    writer.write(b"x-a: b\r\n")
                    await writer.drain()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(0.5):
                            await reader.read(1024)

    await asyncio.gather(*(drip() for _ in range(50)))


# HTTP/2


def headers(stream_id: int, *, path: str = CHAT, end: bool = True, **more: str) -> bytes:
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "edge"),
        (":path", path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *more.items(),
    ]
    frame = HeadersFrame(stream_id, data=hpack.Encoder().encode(fields))
    frame.flags |= {"END_HEADERS", *(("END_STREAM",) if end else ())}
    return bytes(frame.serialize())


def begun() -> bytes:
    return PREFACE + bytes(SettingsFrame(0).serialize())


def raw(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """A frame that no library would make."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream_id) + payload


@pytest.mark.parametrize("seed", SEEDS)
async def test_mutated_http2_reaches_nobody(world: World, seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(150):
        frames = [begun()]
        for number in range(draw.randint(1, 10)):
            stream_id = draw.choice([0, 1, 2, 3, 2**31 - 1, 2 * number + 1])
            payload = draw.randbytes(draw.choice([0, 1, 5, 8, 100, 16_384]))
            frames.append(raw(draw.randrange(14), draw.randrange(256), stream_id, payload))
            if draw.random() < 0.5:
                frames.append(headers(2 * number + 1, end=draw.random() < 0.5))
        await answer_to(world, b"".join(frames))


async def test_streams_that_are_reset_at_once_end_the_connection(world: World) -> None:
    """Rapid reset (CVE-2023-44487): cheap for the sender, so it must be cheap for the edge."""
    async with connected(world) as (reader, writer), asyncio.timeout(SHUT_WITHIN_S):
        writer.write(begun())
        reading = asyncio.create_task(_swallow(reader))
        sent_count = 0
        with suppress(ConnectionError):
            while not reading.done() and sent_count < 50_000:
                for _ in range(100):
                    stream_id = 2 * sent_count + 1
                    writer.write(
                        headers(stream_id) + bytes(RstStreamFrame(stream_id, error_code=8).serialize())
                    )
                    sent_count += 1
                await writer.drain()
        await reading
    assert sent_count < 50_000, "nobody minded"


async def _swallow(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):
        while await reader.read(65_536):
            pass


@pytest.mark.parametrize("kind", ["settings", "ping", "priority", "window", "empty data", "continuation"])
async def test_floods_harm_nobody(world: World, kind: str) -> None:
    """They end their connection, but for data of a stream that was refused: that costs nothing but the reading."""
    flood = {
        "settings": SettingsFrame(0).serialize(),
        "ping": PingFrame(0, opaque_data=b"12345678").serialize(),
        "priority": PriorityFrame(1, depends_on=0, stream_weight=1).serialize(),
        "window": WindowUpdateFrame(0, window_increment=1).serialize(),
        "empty data": DataFrame(1, data=b"").serialize(),
        "continuation": ContinuationFrame(1, data=b"").serialize(),
    }[kind]
    first: list[Frame] = []
    if kind == "continuation":
        first = [HeadersFrame(1, data=b"")]  # Without END_HEADERS.
    opening = b"".join(bytes(frame.serialize()) for frame in first)
    if kind in {"empty data", "priority"}:
        opening = headers(1, end=False)
    async with connected(world) as (reader, writer), asyncio.timeout(SHUT_WITHIN_S):
        reading = asyncio.create_task(_swallow(reader))
        with suppress(ConnectionError):
            writer.write(begun() + opening)
            for _ in range(2_000):
                if reading.done():
                    break
                writer.write(bytes(flood) * 100)
                await writer.drain()
            if kind == "empty data":
                writer.write_eof()
        await reading


async def test_headers_that_unpack_to_much_are_refused(world: World) -> None:
    """An HPACK bomb: a large field once in the table, and then one byte each time it is meant."""
    encoder = hpack.Encoder()
    block = encoder.encode([(":method", "POST"), (":scheme", "http"), (":authority", "e"), (":path", CHAT)])
    block += encoder.encode([("x-bomb", "b" * 3_900)])
    block += encoder.encode([("x-bomb", "b" * 3_900)]) * 4_000
    frame = HeadersFrame(1, data=block)
    frame.flags |= {"END_HEADERS", "END_STREAM"}
    await answer_to(world, begun() + bytes(frame.serialize()))


async def test_who_reads_nothing_is_sent_little(world: World) -> None:
    """A window that stays closed: a hundred streams whose answers nobody takes."""
    settings = SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0})
    async with connected(world) as (_reader, writer):
        writer.write(PREFACE + bytes(settings.serialize()))
        writer.write(b"".join(headers(2 * n + 1, path="/") for n in range(100)))
        await writer.drain()
        token = await world.stack.token()
        assert token


# gRPC and gRPC-Web


@pytest.mark.parametrize("seed", SEEDS)
async def test_malformed_messages_without_a_token_reach_nobody(world: World, seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(100):
        body = draw.choice(
            [
                struct.pack(">BI", draw.randrange(256), draw.choice([0, 1, 2**31, 2**32 - 1]))
                + draw.randbytes(9),
                edge_web.frame(draw.randbytes(50))[: draw.randint(0, 54)],
                struct.pack(">BI", edge_web.TRAILERS, 20) + b"grpc-status: 0\r\nx: y\r\n",
                base64.b64encode(draw.randbytes(40)),
                draw.randbytes(draw.randint(0, 3000)),
            ]
        )
        kind = draw.choice(["", "-web", "-web-text", "-web+proto", "+json", "-web-text+thrift"])
        sent = {
            "content-type": f"application/grpc{kind}",
            "grpc-encoding": draw.choice(["gzip", "none", "x"]),
        }
        async with world.stack.http.post(world.stack.url + CHAT, data=body, headers=sent) as answer:
            await answer.read()
            assert answer.headers.get("grpc-status") != "0"
