"""The load generator through the edge: Envoy checks its token, passes its deadline, and speaks gRPC-Web with it."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.bench.support import load as support
from tests.bench.support.load import Load, Protocol
from tests.bench.tools import build
from tests.service import auth_app, edge_app
from tests.service.bench_servers import token
from tests.service.edge_app import CHAT, Call, World
from tests.stack import Database

STREAMS = 20
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(module_database: Database) -> AsyncIterator[World]:
    if build.program("load") is None:
        pytest.skip(build.NO_COMPILER)
    async with edge_app.whole(auth_app.config(module_database("auth"))) as world:
        world.echo.reset()
        yield world


async def some_tokens(call: Call) -> None:
    """As many as asked for, half of them alone and the others together."""
    count = int(call.request) // 2
    for _ in range(count):
        await call.write(token())
    await call.write(b"".join(token() for _ in range(count)))


async def one_message(call: Call) -> None:
    await call.write(b"".join(token() for _ in range(int(call.request))))


def chat(world: World, protocol: Protocol, bearer: str | None, *, count: int = 40) -> Load:
    return Load(
        protocol=protocol,
        port=world.stack.port,
        path=CHAT,
        body=b"%d" % count,
        bearer=bearer,
        concurrency=8,
        connections=2,
        count_max=STREAMS,
        timeout_s=20.0,
        expect_token_count=count,
    )


@pytest.mark.parametrize("protocol", ["grpc", "grpc-web"])
async def test_counts_every_token(world: World, protocol: Protocol) -> None:
    world.echo.reset()
    world.echo.reply = some_tokens
    outcome = await support.run_async(chat(world, protocol, await world.stack.token()))
    assert outcome.failures == {}, outcome.first_failure
    assert (outcome.completed, outcome.tokens, outcome.messages) == (STREAMS, STREAMS * 40, STREAMS * 21)
    assert all(10 < (call.deadline_s or 0) <= 20 for call in world.echo.calls)


@pytest.mark.parametrize("protocol", ["grpc", "grpc-web"])
async def test_a_huge_message_comes_whole(world: World, protocol: Protocol) -> None:
    world.echo.reply = one_message
    outcome = await support.run_async(chat(world, protocol, await world.stack.token(), count=20_000))
    assert outcome.failures == {}, outcome.first_failure
    assert (outcome.messages, outcome.tokens) == (STREAMS, STREAMS * 20_000)


@pytest.mark.parametrize("protocol", ["grpc", "grpc-web"])
async def test_without_a_token_nothing_comes(world: World, protocol: Protocol) -> None:
    outcome = await support.run_async(chat(world, protocol, None))
    assert outcome.failures == {"UNAUTHENTICATED": STREAMS}
