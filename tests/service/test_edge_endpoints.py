"""Replicas that come and go while the edge runs: without a restart, and without a call that fails."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import grpc.aio
import pytest
import pytest_asyncio

from services.common.grpc.client import bearer
from tests.service import auth_app, edge_app
from tests.service.auth_app import TIMEOUT_S
from tests.service.edge_app import CHAT, GET_FLEET, Call, Replica, Stack, echo, replica, until_keys_are_known
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")
CALLERS = 6


@dataclass(slots=True)
class Watched:
    stack: Stack
    token: str
    first: Replica
    failures: list[str] = field(default_factory=list)
    call_count: int = 0

    async def keep_calling(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self.stack.unary(CHAT)(b"hi", metadata=bearer(self.token), timeout=TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                self.failures.append(f"{error.code()} {error.details()}")
            self.call_count += 1


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched(module_database: Database) -> AsyncIterator[Watched]:
    async with AsyncExitStack() as opened:
        auth = await opened.enter_async_context(auth_app.serving(auth_app.config(module_database("auth"))))
        first = await opened.enter_async_context(replica())
        env = edge_app.settings(auth.port, {"inference": (first.port,)}, OLLAMESH_EDGE_DISCOVERY="files")
        stack = await opened.enter_async_context(edge_app.serving(env))
        token = await stack.token()
        await until_keys_are_known(stack, GET_FLEET, token)
        yield Watched(stack, token, first)


async def change(stack: Stack, *arguments: str) -> str:
    """As an operator would, with the command."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.envoy.endpoints", "--folder", str(stack.folder), *arguments),
        stdout=asyncio.subprocess.PIPE,
    )
    told, _ = await process.communicate()
    assert process.returncode == 0
    return told.decode()


async def until_asked(found: Replica) -> None:
    found.echo.calls.clear()
    async with asyncio.timeout(TIMEOUT_S):
        while not found.echo.calls:
            await asyncio.sleep(0.01)


async def until_left_alone(found: Replica) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        seen = -1
        while seen != len(found.echo.calls):
            seen = len(found.echo.calls)
            await asyncio.sleep(0.5)


async def test_replicas_come_and_go_under_load_and_nothing_fails(watched: Watched) -> None:
    stop, stack = asyncio.Event(), watched.stack
    async with asyncio.TaskGroup() as tasks, replica() as second:
        for _ in range(CALLERS):
            tasks.create_task(watched.keep_calling(stop))
        told = await change(stack, "add", "inference", f"127.0.0.1:{second.port}")
        assert f"inference blue 100% 127.0.0.1:{watched.first.port} 127.0.0.1:{second.port}\n" in told
        await until_asked(second)
        await change(stack, "remove", "inference", f"127.0.0.1:{watched.first.port}")
        await until_left_alone(watched.first)
        await change(stack, "add", "inference", f"127.0.0.1:{watched.first.port}")
        await until_asked(watched.first)
        await change(stack, "remove", "inference", f"127.0.0.1:{second.port}")
        await until_left_alone(second)
        stop.set()
    assert watched.failures == []
    assert watched.call_count > 100


async def test_who_is_taken_off_finishes_its_streams(watched: Watched) -> None:
    go_on = asyncio.Event()

    async def slowly(call: Call) -> None:
        await call.write(b"one")
        await go_on.wait()
        await call.write(b"two")

    async with replica() as second:
        watched.first.echo.reply = slowly
        stream = watched.stack.stream(CHAT)(b"", metadata=bearer(watched.token), timeout=TIMEOUT_S)
        assert await stream.read() == b"one"
        await change(watched.stack, "add", "inference", f"127.0.0.1:{second.port}")
        await change(watched.stack, "remove", "inference", f"127.0.0.1:{watched.first.port}")
        async with asyncio.timeout(TIMEOUT_S):
            while not second.echo.calls:
                await watched.stack.unary(GET_FLEET)(b"", metadata=bearer(watched.token), timeout=TIMEOUT_S)
        go_on.set()
        assert await stream.read() == b"two"
        assert await stream.read() == grpc.aio.EOF
        watched.first.echo.reply = echo
        await change(watched.stack, "add", "inference", f"127.0.0.1:{watched.first.port}")
        await change(watched.stack, "remove", "inference", f"127.0.0.1:{second.port}")


async def test_a_replica_that_is_not_ready_gets_nothing_when_it_is_added(watched: Watched) -> None:
    async with replica() as second:
        await second.set_ready(ready=False)
        await change(watched.stack, "add", "inference", f"127.0.0.1:{second.port}")
        for _ in range(30):
            await watched.stack.unary(CHAT)(b"hi", metadata=bearer(watched.token), timeout=TIMEOUT_S)
        assert not second.echo.calls
        await change(watched.stack, "remove", "inference", f"127.0.0.1:{second.port}")


@pytest.mark.parametrize("arguments", [("add", "inference", "nonsense"), ("add", "evil", "127.0.0.1:1")])
async def test_mistakes_change_nothing(watched: Watched, arguments: tuple[str, ...]) -> None:
    before = (watched.stack.folder / "endpoints" / "inference.json").read_bytes()
    with pytest.raises(AssertionError):
        await change(watched.stack, *arguments)
    assert (watched.stack.folder / "endpoints" / "inference.json").read_bytes() == before
