"""Replicas of the sandbox behind a real Envoy: one of them has all that is a user's."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from ollamesh.auth.v1.auth_service_pb2 import CreateApiKeyRequest

from services.common.grpc.client import bearer
from tests.fakes.severable import Severable
from tests.service import auth_app, edge_app
from tests.service.auth_app import TIMEOUT_S
from tests.service.auth_people import PASSWORD, fresh, logged_in
from tests.service.edge_app import EXECUTE, Call, Replica, Stack, replica, stat, until_keys_are_known
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")

USER_COUNT, REPLICA_COUNT = 24, 3
SERVICE = "/ollamesh.sandbox.v1.SandboxService"
METHODS = (EXECUTE, f"{SERVICE}/GetSession", f"{SERVICE}/WatchExecution", f"{SERVICE}/KillExecution")


@dataclass(slots=True)
class Parts:
    """Replicas behind an edge that knows many users."""

    stack: Stack
    auth: auth_app.Auth
    tokens: list[str]
    cables: list[Severable]
    replicas: list[Replica]
    first_home: int | None = None  # Of the first user, when all replicas are fit.

    async def home(self, token: str, method: str = EXECUTE, **headers: str) -> int:
        """Which replica takes a call."""
        for found in self.replicas:
            found.echo.reset()
        metadata = (*bearer(token), *headers.items())
        await self.stack.unary(method)(b"", metadata=metadata, timeout=TIMEOUT_S)
        (number,) = [number for number, found in enumerate(self.replicas) if found.echo.calls]
        return number

    async def until_at(self, token: str, home: int) -> None:
        """Wait until Envoy's workers pick that replica: they learn of its health a moment after it is counted."""
        async with asyncio.timeout(TIMEOUT_S):
            while await self.home(token) != home:
                await asyncio.sleep(0.05)

    async def until_healthy(self, count: int) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while await stat(self.stack, "cluster.sandbox.membership_healthy") != count:
                await asyncio.sleep(0.1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(module_database: Database) -> AsyncIterator[Parts]:
    async with contextlib.AsyncExitStack() as opened:
        auth = await opened.enter_async_context(auth_app.serving(auth_app.config(module_database("auth"))))
        replicas = [await opened.enter_async_context(replica()) for _ in range(REPLICA_COUNT)]
        cables = [await opened.enter_async_context(Severable.to(found.port)) for found in replicas]
        ports = {"sandbox": tuple(cable.port for cable in cables)}
        stack = await opened.enter_async_context(edge_app.serving(edge_app.settings(auth.port, ports)))
        admin = await logged_in(auth)
        tokens = []
        for _ in range(USER_COUNT):
            await admin.create_user(name := fresh("user"))
            tokens.append((await logged_in(auth, name, PASSWORD)).token)
        await until_keys_are_known(stack, EXECUTE, tokens[0])
        yield Parts(stack, auth, tokens, cables, replicas)


@pytest_asyncio.fixture(loop_scope="module")
async def parts(running: Parts) -> AsyncIterator[Parts]:
    await running.until_healthy(REPLICA_COUNT)
    if running.first_home is None:
        running.first_home = await running.home(running.tokens[0])
    await running.until_at(running.tokens[0], running.first_home)
    for found in running.replicas:
        found.echo.reset()
    yield running
    for cable in running.cables:
        await cable.mend()
    for found in running.replicas:
        await found.set_ready(ready=True)


async def test_a_user_has_one_replica_for_everything(parts: Parts) -> None:
    homes = [await parts.home(token) for token in parts.tokens]
    for method in METHODS:
        assert [await parts.home(token, method) for token in parts.tokens] == homes
    assert set(homes) == set(range(REPLICA_COUNT)), "some replica has no user"


async def test_another_login_and_a_key_lead_to_the_same_replica(parts: Parts) -> None:
    admin = await logged_in(parts.auth)
    made = await admin.ask("CreateApiKey", CreateApiKeyRequest(display_name="x", request_id="x"))
    homes = {await parts.home((await logged_in(parts.auth)).token) for _ in range(3)}
    homes |= {await parts.home(made.secret) for _ in range(3)}
    assert len(homes) == 1


async def test_nobody_chooses_a_replica(parts: Parts) -> None:
    """The header that routes look at is taken from the token, whatever a caller brings along."""
    token = parts.tokens[0]
    home = await parts.home(token)
    for number in range(20):
        assert await parts.home(token, **{"x-ollamesh-user": f"somebody-{number}"}) == home


async def test_who_has_lost_their_replica_gets_the_other_and_comes_back(parts: Parts) -> None:
    token = parts.tokens[0]
    home = await parts.home(token)
    others = {other: at for other in parts.tokens if (at := await parts.home(other)) != home}
    await parts.replicas[home].set_ready(ready=False)
    async with asyncio.timeout(TIMEOUT_S):
        while await parts.home(token) == home:
            await asyncio.sleep(0.05)
    moved = [other for other, at in others.items() if await parts.home(other) != at]
    assert len(moved) <= 1, "others are moved by a rare chance only"
    await parts.replicas[home].set_ready(ready=True)
    await parts.until_at(token, home)


async def test_what_a_replica_keeps_is_not_looked_for_at_another(parts: Parts) -> None:
    """It would say that there is no such session, while its own replica only cannot answer just now."""

    async def refuse(call: Call) -> None:
        await call.context.abort(grpc.StatusCode.UNAVAILABLE, "not now")

    token = parts.tokens[0]
    home = parts.replicas[await parts.home(token)]
    for found in parts.replicas:
        found.echo.reset()
    home.echo.reply = refuse
    for method in ("GetSession", "ListFiles", "WatchExecution", "DeleteSession"):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await parts.stack.unary(f"{SERVICE}/{method}")(b"", metadata=bearer(token), timeout=TIMEOUT_S)
        assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.UNAVAILABLE, "not now")
    assert [len(found.echo.calls) for found in parts.replicas if found is not home] == [0, 0]
    assert len(home.echo.calls) == 4


async def test_a_replica_that_died_costs_nobody_what_it_had_not_begun(parts: Parts) -> None:
    token = parts.tokens[0]
    home = await parts.home(token)
    await parts.cables[home].cut()
    assert await parts.home(token) != home
