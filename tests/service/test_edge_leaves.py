"""An edge that is told to end: who is connected is told to go, calls under way go on to their end, and then it is gone."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import aiohttp
import grpc.aio
import pytest
import pytest_asyncio

from services.common.grpc.client import bearer, held
from tests.service import auth_app, edge_app
from tests.service.auth_app import TIMEOUT_S
from tests.service.edge_app import CHAT, Call, Replica, Stack
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def inference() -> AsyncIterator[Replica]:
    async with edge_app.replica() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def edge(module_database: Database, inference: Replica) -> AsyncIterator[Stack]:
    async with AsyncExitStack() as opened:
        auth = await opened.enter_async_context(auth_app.serving(auth_app.config(module_database("auth"))))
        env = edge_app.settings(
            auth.port, {"inference": (inference.port,)}, OLLAMESH_EDGE_STOP_DRAIN_S=str(TIMEOUT_S)
        )
        yield await opened.enter_async_context(edge_app.serving(env, kept=True))


async def test_calls_end_in_their_own_time_and_nobody_new_is_taken(edge: Stack, inference: Replica) -> None:
    token = await edge.token()
    await edge_app.until_keys_are_known(edge, CHAT, token)
    may_end = asyncio.Event()

    async def in_two_parts(call: Call) -> None:
        await call.write(b"one")
        await may_end.wait()
        await call.write(b"two")

    inference.echo.reply = in_two_parts
    stream = edge.stream(CHAT)(b"", metadata=bearer(token), timeout=TIMEOUT_S)
    with held(stream) as call:
        assert await call.read() == b"one"
        edge.process.send_signal(signal.SIGTERM)
        await _until_told_to_go(edge)
        await _until_refused(edge)
        assert edge.process.returncode is None
        may_end.set()
        assert await call.read() == b"two"
        assert await call.read() is grpc.aio.EOF
    async with asyncio.timeout(TIMEOUT_S):
        assert await edge.process.wait() == 0


async def _until_told_to_go(edge: Stack) -> None:
    """A connection that is kept open is closed with an answer."""
    async with asyncio.timeout(TIMEOUT_S), aiohttp.ClientSession() as http:
        while True:
            async with http.get(edge.url) as answer:
                assert answer.status == 200
                if answer.headers.get("connection") == "close":
                    return


async def _until_refused(edge: Stack) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                _, writer = await asyncio.open_connection(edge_app.LOOPBACK, edge.port)
            except ConnectionRefusedError:
                return
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            await asyncio.sleep(0.05)
