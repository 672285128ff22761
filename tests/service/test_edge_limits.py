"""What strangers may not do to the edge: each limit is met on purpose, by hand-written bytes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from deploy.local.ports import free_ports
from tests.service import edge_app
from tests.service.auth_app import TIMEOUT_S
from tests.service.edge_app import Stack, stat

pytestmark = pytest.mark.asyncio(loop_scope="module")
CONNECTIONS_MAX = 20
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, HEADERS, RST_STREAM, PING = 4, 1, 3, 6
END_HEADERS, END_STREAM = 4, 1
# `GET / http`, by HPACK's static table, and an authority.
GET = bytes([0x82, 0x86, 0x84, 0x41, 4]) + b"edge"
RESETS = 5000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[Stack]:
    (nobody,) = free_ports(1)
    env = edge_app.settings(nobody, {}, OLLAMESH_EDGE_CONNECTIONS_MAX=str(CONNECTIONS_MAX))
    async with edge_app.serving(env) as running:
        yield running


async def status_of(stack: Stack, request: bytes) -> int:
    """What HTTP/1 is answered; 0 if the connection is just closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    try:
        writer.write(request)
        async with asyncio.timeout(TIMEOUT_S):
            line = await reader.readline()
        return int(line.split()[1]) if line else 0
    except ConnectionError:
        return 0
    finally:
        writer.close()


def get(*headers: str, path: str = "/", version: str = "1.1") -> bytes:
    return "\r\n".join([f"GET {path} HTTP/{version}", "host: edge", *headers, "", ""]).encode()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (get(), 200),
        (get(*(f"x-{number}: y" for number in range(90))), 200),
        (get(*(f"x-{number}: y" for number in range(110))), 431),
        (get(f"x-large: {'y' * 30_000}"), 200),
        (get(f"x-large: {'y' * 40_000}"), 431),
        (get("x_role: admin"), 400),
        (get(version="1.0"), 426),
        (get("content-length: 5", "transfer-encoding: chunked"), 400),
        (get("content-length: 5", "content-length: 6"), 400),
        (get("content-length: -1"), 400),
        (get("x-a: b", " folded: c"), 200),  # It becomes one line, so nobody behind reads two.
        (get("bad name: c"), 400),
        (get("x: \x00"), 400),
        (get(path="/%2e%2e%2fetc"), 400),
        (get(path="/a%5cb"), 400),
        (get(path="http://evil.example/"), 200),
        (b"GARBAGE\r\n\r\n", 400),
        (b"G / HTTP/1.1\r\nhost: edge\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
    ],
)
async def test_http1_is_read_strictly(stack: Stack, request_bytes: bytes, status: int) -> None:
    assert await status_of(stack, request_bytes) == status


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload


async def test_who_opens_streams_only_to_take_them_back_is_cut_off(stack: Stack) -> None:
    """Rapid reset, CVE-2023-44487; the others' connections stay."""
    before = await allocated_bytes(stack)
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    writer.write(PREFACE + frame(SETTINGS, 0, 0))
    sent = 0
    with contextlib.suppress(ConnectionError):
        for number in range(RESETS):
            stream_id = 2 * number + 1
            writer.write(frame(HEADERS, END_HEADERS | END_STREAM, stream_id, GET))
            writer.write(frame(RST_STREAM, 0, stream_id, (8).to_bytes(4, "big")))
            await writer.drain()
            sent += 1
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(TIMEOUT_S):
            while await reader.read(65_536):
                pass
    writer.close()
    assert await status_of(stack, get()) == 200
    counted = ("premature_reset", "flood", "too_many", "overload")
    async with stack.http.get(f"{stack.admin_url}/stats?usedonly") as answer:
        stats = [line for line in (await answer.text()).splitlines() if any(word in line for word in counted)]
    assert any(int(line.rpartition(" ")[2]) > 0 for line in stats), (sent, stats)
    assert await allocated_bytes(stack) - before < 16 * 1024 * 1024


async def allocated_bytes(stack: Stack) -> int:
    return await stat(stack, "server.memory_allocated")


async def test_more_connections_than_are_allowed_are_refused_and_the_others_stay(stack: Stack) -> None:
    async with contextlib.AsyncExitStack() as opened:
        writers = []
        for _ in range(2 * CONNECTIONS_MAX):
            _, writer = await asyncio.open_connection("127.0.0.1", stack.port)
            opened.callback(writer.close)
            writers.append(writer)
        async with asyncio.timeout(TIMEOUT_S):
            while await stat(stack, "listener.public.downstream_cx_overflow") == 0:
                await asyncio.sleep(0.05)
        assert await stat(stack, "http.public.downstream_cx_active") <= CONNECTIONS_MAX
    async with asyncio.timeout(TIMEOUT_S):
        while await status_of(stack, get()) != 200:
            await asyncio.sleep(0.05)
