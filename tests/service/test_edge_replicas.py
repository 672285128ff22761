"""Parts behind the edge that come, go, and come back: who is asked, who is not, and what callers notice."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc.aio
import pytest
import pytest_asyncio
from ollamesh.auth.v1 import auth_service_pb2 as pb

from services.common.errors import AuthUnavailable
from services.common.grpc.client import bearer
from services.common.grpc.errors import DETAILS_KEY, status_of
from tests.fakes.severable import Severable
from tests.service import auth_app, edge_app
from tests.service.auth_app import TIMEOUT_S, failure, retry_after_s
from tests.service.edge_app import (
    CHAT,
    EXECUTE,
    GET_FLEET,
    Call,
    Replica,
    Stack,
    replica,
    stat,
    until_healthy,
    until_keys_are_known,
)
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(slots=True)
class Parts:
    """Auth and two replicas of inference behind cables, and nobody behind the other services."""

    stack: Stack
    token: str
    auth_cable: Severable
    cables: list[Severable]
    replicas: list[Replica]

    async def call(self, path: str = GET_FLEET, message: bytes = b"") -> bytes:
        answer: bytes = await self.stack.unary(path)(message, metadata=bearer(self.token), timeout=TIMEOUT_S)
        return answer

    async def until_asked(self, *, both: bool) -> None:
        """Wait until Envoy has found out that both replicas serve, or that one does not."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                for found in self.replicas:
                    found.echo.reset()
                for _ in range(20):
                    with contextlib.suppress(grpc.aio.AioRpcError):
                        await self.call()
                if all(found.echo.calls for found in self.replicas) is both:
                    return
                await asyncio.sleep(0.1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(module_database: Database) -> AsyncIterator[Parts]:
    async with contextlib.AsyncExitStack() as opened:
        auth = await opened.enter_async_context(auth_app.serving(auth_app.config(module_database("auth"))))
        replicas = [await opened.enter_async_context(replica()) for _ in range(2)]
        auth_cable, *cables = [
            await opened.enter_async_context(Severable.to(port))
            for port in (auth.port, *(found.port for found in replicas))
        ]
        ports = tuple(cable.port for cable in cables)
        env = edge_app.settings(auth_cable.port, {"inference": ports})
        stack = await opened.enter_async_context(edge_app.serving(env))
        token = await stack.token()
        await until_keys_are_known(stack, GET_FLEET, token)
        yield Parts(stack, token, auth_cable, cables, replicas)


@pytest_asyncio.fixture(loop_scope="module")
async def parts(running: Parts) -> AsyncIterator[Parts]:
    await until_healthy(running.stack, 2)
    await running.until_asked(both=True)
    for found in running.replicas:
        found.echo.reset()
    yield running
    for cable in (running.auth_cable, *running.cables):
        await cable.mend()
    for found in running.replicas:
        await found.set_ready(ready=True)
        found.echo.reset()


async def test_the_idle_replica_is_asked_more_than_the_busy_one(parts: Parts) -> None:
    busy, idle = (found.echo for found in parts.replicas)
    release = asyncio.Event()

    async def hold(call: Call) -> None:
        await release.wait()
        await call.write(b"")

    busy.reply = hold
    held: list[asyncio.Task[bytes]] = []
    async with asyncio.timeout(TIMEOUT_S):
        while len(busy.calls) < 4:
            held.append(asyncio.create_task(parts.call(CHAT)))
            await asyncio.sleep(0.01)
    busy.reset()  # From now on it answers, and has many calls under way.
    idle.reset()
    for _ in range(60):
        await parts.call(CHAT)
    release.set()
    await asyncio.gather(*held)
    assert len(busy.calls) < len(idle.calls)


async def test_a_replica_that_is_not_ready_is_left_alone_and_nobody_notices(parts: Parts) -> None:
    await parts.replicas[0].set_ready(ready=False)
    await parts.until_asked(both=False)
    parts.replicas[0].echo.reset()
    await asyncio.gather(*(parts.call(CHAT) for _ in range(30)))
    assert not parts.replicas[0].echo.calls
    await parts.replicas[0].set_ready(ready=True)
    await parts.until_asked(both=True)


async def test_with_no_replica_ready_the_service_itself_says_why(parts: Parts) -> None:
    async def refuse(call: Call) -> None:
        details = ((DETAILS_KEY, status_of(AuthUnavailable(), "inference.ollamesh").SerializeToString()),)
        await call.context.abort(grpc.StatusCode.UNAVAILABLE, "not now", details)

    for found in parts.replicas:
        await found.set_ready(ready=False)
    await until_healthy(parts.stack, 0)
    for found in parts.replicas:
        found.echo.reply = refuse
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await parts.call(CHAT)
    assert failure(refused.value) == (grpc.StatusCode.UNAVAILABLE, "AUTH_UNAVAILABLE")


async def test_a_replica_that_died_costs_nobody_what_it_had_not_begun(parts: Parts) -> None:
    await parts.cables[0].cut()
    assert await asyncio.gather(*(parts.call(CHAT, b"hi") for _ in range(30))) == [b"hi"] * 30
    assert not parts.replicas[0].echo.calls
    await parts.cables[0].mend()
    await parts.until_asked(both=True)


async def test_with_nobody_behind_it_a_call_is_refused_at_once(parts: Parts) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await parts.call(EXECUTE)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_known_keys_outlive_the_auth_service(parts: Parts) -> None:
    failed_before = await failed_fetches(parts.stack)
    await parts.auth_cable.cut()
    async with asyncio.timeout(TIMEOUT_S):
        while await failed_fetches(parts.stack) < failed_before + 2:
            await asyncio.sleep(0.1)
    assert await parts.call(CHAT, b"still") == b"still"


async def failed_fetches(stack: Stack) -> int:
    return await stat(stack, "http.public.jwt_authn.jwks_fetch_failed")


async def test_before_the_keys_are_known_the_caller_is_not_blamed(database: Database) -> None:
    async with (
        auth_app.serving(auth_app.config(database("auth"))) as auth,
        Severable.to(auth.port) as cable,
        replica() as inference,
    ):
        await cable.cut()
        env = edge_app.settings(cable.port, {"inference": (inference.port,)})
        async with edge_app.serving(env) as stack:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stack.unary(CHAT)(b"", metadata=bearer(await mint(auth)), timeout=TIMEOUT_S)
            assert failure(refused.value) == (grpc.StatusCode.UNAVAILABLE, "AUTH_UNAVAILABLE")
            assert (retry_after_s(refused.value) or 0) > 0
            await cable.mend()
            await until_keys_are_known(stack, CHAT, await stack.token())


async def mint(auth: auth_app.Auth) -> str:
    login = pb.LoginRequest(username="admin", password=auth_app.ADMIN_PASSWORD)
    return (await auth.service.Login(login, timeout=TIMEOUT_S)).tokens.access_token
