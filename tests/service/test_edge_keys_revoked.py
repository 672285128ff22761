"""Keys that end: at every replica of auth, behind a real Envoy, within a second; and a store that is away."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import grpc.aio
import pytest
import pytest_asyncio
from google.api.httpbody_pb2 import HttpBody
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.compat.envoy.v3.ext_authz_pb2 import CheckRequest, CheckResponse

from services.common.grpc.client import bearer
from tests.service import auth_app, edge_app
from tests.service.auth_app import TIMEOUT_S, Auth, failure
from tests.service.edge_app import CHAT, GET_FLEET, Stack, until_keys_are_known
from tests.service.key_owners import Metadata, add_user, login, make_key
from tests.stack import Database

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timed]
CHECK = "/envoy.service.auth.v3.Authorization/Check"
WITHIN_S = 1.0  # The promise.


@dataclass(slots=True)
class Place:
    """Two replicas of auth, and the edge before them."""

    stack: Stack
    replicas: list[Auth]
    database: Database

    async def let_in(self, key: str) -> bool:
        """Whether the edge lets somebody in with the key."""
        try:
            await self.stack.unary(CHAT)(b"", metadata=bearer(key), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if failure(error) != (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID"):
                raise
            return False
        return True

    async def known_everywhere(self, key: str) -> None:
        for replica in self.replicas:
            assert await asked(replica, key) == ""
        assert await self.let_in(key)

    async def refused_everywhere(self, key: str, *, since_s: float) -> None:
        """Keep trying at every door, and hold each to the promise."""
        open_s = since_s
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                began_s = time.monotonic()
                doors = [await self.let_in(key), *[await asked(each, key) == "" for each in self.replicas]]
                if not any(doors):
                    break
                open_s = began_s
        assert open_s - since_s < WITHIN_S


async def asked(replica: Auth, key: str) -> str:
    """What a replica tells the edge of a key: the reason of a refusal, or nothing."""
    request = CheckRequest()
    request.attributes.context_extensions["service"] = "inference"
    request.attributes.metadata_context.filter_metadata["ollamesh.api_key"]["key"] = key
    check = replica.channel.unary_unary(CHECK, CheckRequest.SerializeToString, CheckResponse.FromString)
    answer: CheckResponse = await check(request, timeout=TIMEOUT_S)
    return answer.dynamic_metadata.fields["refusal"].string_value


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(module_database: Database) -> AsyncIterator[Place]:
    async with AsyncExitStack() as opened:
        config = auth_app.config(module_database("auth"))
        replicas = [await opened.enter_async_context(auth_app.serving(config)) for _ in range(2)]
        echo = await opened.enter_async_context(edge_app.replica())
        ports = {"auth": tuple(replica.port for replica in replicas), "inference": (echo.port,)}
        stack = await opened.enter_async_context(edge_app.serving(edge_app.settings(1, ports)))
        await until_keys_are_known(stack, GET_FLEET, await stack.token())
        await add_user(module_database, "ann")
        await add_user(module_database, "bob")
        yield Place(stack, replicas, module_database)


async def revoke(replica: Auth, who: Metadata, key_id: str) -> None:
    await replica.service.RevokeApiKey(
        pb.RevokeApiKeyRequest(api_key_id=key_id), metadata=who, timeout=TIMEOUT_S
    )


@pytest.mark.parametrize("number", [0, 1])
async def test_a_revoked_key_is_refused_everywhere_within_a_second(place: Place, number: int) -> None:
    who = await login(place.replicas[0], "ann")
    made = await make_key(place.replicas[0], who)
    await place.known_everywhere(made.secret)
    await revoke(place.replicas[number], who, made.api_key.api_key_id)
    await place.refused_everywhere(made.secret, since_s=time.monotonic())


async def test_a_leaked_key_is_ended_by_whoever_finds_it(place: Place) -> None:
    made = await make_key(place.replicas[0], await login(place.replicas[0], "ann"))
    await place.known_everywhere(made.secret)
    url = f"{place.stack.url}/oauth/leaked-keys"
    async with place.stack.http.post(url, data=f"KEY={made.secret}\n") as answer:
        assert (answer.status, await answer.text()) == (200, "{}")
    await place.refused_everywhere(made.secret, since_s=time.monotonic())
    async with place.stack.http.post(url, data="nothing") as answer:
        assert (answer.status, await answer.text()) == (200, "{}")
        assert answer.headers["cache-control"] == "no-store"


async def test_too_many_reports_are_told_to_come_again(place: Place) -> None:
    report = place.replicas[1].oauth.ReportLeakedKey
    for _ in range(40):
        answer: HttpBody = await report(HttpBody(data=b"x"), timeout=TIMEOUT_S)
    assert b"temporarily_unavailable" in answer.data


async def test_a_key_falls_with_its_owner(place: Place) -> None:
    made = await make_key(place.replicas[0], await login(place.replicas[0], "bob"))
    await place.known_everywhere(made.secret)
    admin = await login(place.replicas[0])
    await place.replicas[0].service.DisableUser(
        pb.DisableUserRequest(user_id="user:bob"), metadata=admin, timeout=TIMEOUT_S
    )
    await place.refused_everywhere(made.secret, since_s=time.monotonic())
