"""The edge alone says where a call comes from, and whoever guesses through it is slowed down by that."""

from collections.abc import AsyncIterator

import grpc.aio
import pytest
import pytest_asyncio
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceStub

from services.auth.core.throttle import ADDRESS_FREE_COUNT
from services.common.grpc.address import HEADER
from tests.service import auth_app
from tests.service.auth_app import TIMEOUT_S, failure
from tests.service.edge_app import GET_FLEET, World, whole
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(module_database: Database) -> AsyncIterator[World]:
    async with whole(auth_app.config(module_database("auth"))) as running:
        yield running


async def test_what_a_caller_says_of_its_address_does_not_count(world: World) -> None:
    lies = ((HEADER, "192.0.2.1"), ("x-forwarded-for", "192.0.2.1"), ("x-real-ip", "192.0.2.1"))
    token = await world.stack.token()
    call = world.stack.unary(GET_FLEET)
    await call(b"", metadata=(("authorization", f"Bearer {token}"), *lies), timeout=TIMEOUT_S)
    (last,) = [call for call in world.echo.calls if call.path == GET_FLEET][-1:]
    assert last.metadata[HEADER] == "127.0.0.1"


async def test_guesses_at_many_names_are_slowed_down_by_the_address(world: World) -> None:
    stub = AuthServiceStub(world.stack.channel)
    refused: list[grpc.aio.AioRpcError] = []
    while not refused or refused[-1].code() is grpc.StatusCode.UNAUTHENTICATED:
        request = pb.LoginRequest(username=f"name-{len(refused)}", password="a guess")
        lie = ((HEADER, f"192.0.2.{len(refused)}"),)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Login(request, metadata=lie, timeout=TIMEOUT_S)
        refused.append(caught.value)
        assert len(refused) <= ADDRESS_FREE_COUNT + 1, "nothing slows it down"
    assert failure(refused[-1]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert len(refused) == ADDRESS_FREE_COUNT + 1


async def test_behind_a_balancer_its_word_counts_and_not_its_callers(database: Database) -> None:
    """The last address is the balancer's own; what stands before it, callers may have made up."""
    config = auth_app.config(database("auth"))
    async with whole(config, OLLAMESH_EDGE_PROXIES_BEFORE="1") as world:
        said = (("x-forwarded-for", "192.0.2.66, 203.0.113.9"), (HEADER, "192.0.2.67"))
        token = await world.stack.token()
        call = world.stack.unary(GET_FLEET)
        await call(b"", metadata=(("authorization", f"Bearer {token}"), *said), timeout=TIMEOUT_S)
        (last,) = [call for call in world.echo.calls if call.path == GET_FLEET][-1:]
        assert last.metadata[HEADER] == "203.0.113.9"
