"""The sandbox's streams through a real Envoy: long ones, both directions, and from browsers."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from ollamesh.client import Client, StaticToken, executions
from ollamesh.sandbox.v1 import execution_pb2
from ollamesh.sandbox.v1 import sandbox_service_pb2 as pb

from services.common.grpc.client import bearer
from tests.fakes.fake_sandbox import Execution, FakeSandbox
from tests.service import auth_app, edge_app, edge_web
from tests.service.auth_app import TIMEOUT_S
from tests.service.edge_app import Stack, until_keys_are_known
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVICE = "/ollamesh.sandbox.v1.SandboxService"
LARGE_BYTES = 24 << 20  # More than what anything on the way would keep.


@dataclass(slots=True)
class Parts:
    stack: Stack
    token: str
    sandbox: FakeSandbox
    client: Client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def parts(module_database: Database) -> AsyncIterator[Parts]:
    async with contextlib.AsyncExitStack() as opened:
        auth = await opened.enter_async_context(auth_app.serving(auth_app.config(module_database("auth"))))
        sandbox = await opened.enter_async_context(FakeSandbox.serving())
        ports = {"sandbox": (int(sandbox.target.rpartition(":")[2]),)}
        stack = await opened.enter_async_context(edge_app.serving(edge_app.settings(auth.port, ports)))
        token = await stack.token()
        await until_keys_are_known(stack, f"{SERVICE}/GetCapabilities", token)
        client = await opened.enter_async_context(Client(stack.url, StaticToken(token)))
        yield Parts(stack, token, sandbox, client)


async def test_a_large_file_goes_in_and_out(parts: Parts) -> None:
    data = os.urandom(1 << 16) * (LARGE_BYTES >> 16)
    async with parts.client.sandbox.session() as session:
        assert (await session.put("large", data)).size_bytes == LARGE_BYTES
        assert await session.get("large") == data


async def test_a_watch_may_last_for_an_hour_and_other_calls_as_long_as_they_ask(parts: Parts) -> None:
    """Nothing on the way ends them earlier."""
    release = asyncio.Event()
    parts.sandbox.script = [Execution(stdout=[b"a"], hold=release)]
    await parts.client.sandbox.start("x", execution_id="held")
    watch = parts.stack.stream(f"{SERVICE}/WatchExecution")
    request = pb.WatchExecutionRequest(execution_id="held").SerializeToString()
    call = watch(request, metadata=bearer(parts.token))
    events = [pb.WatchExecutionResponse.FromString(await call.read()).event for _ in range(2)]
    assert [event.WhichOneof("event") for event in events] == ["started", "stdout"]
    assert 3500 < parts.sandbox.remaining_s["WatchExecution"] <= 3600
    release.set()
    last = pb.WatchExecutionResponse.FromString(await call.read()).event
    assert last.exited.outcome == execution_pb2.OUTCOME_OK
    await parts.client.sandbox.run("x", deadline_s=2000)
    assert 1900 < parts.sandbox.remaining_s["Execute"] < 2100  # On the wire it is rounded.


async def test_input_flows_while_output_does(parts: Parts) -> None:
    parts.sandbox.script = [Execution(echoes=True)]
    heard = asyncio.Event()

    async def said() -> AsyncIterator[bytes]:
        yield b"one"
        await heard.wait()
        yield b"two"

    output = b""
    async with asyncio.timeout(TIMEOUT_S):
        async for event in parts.client.execute("cat", stdin=said()):
            if isinstance(event, executions.Stdout):
                output += event.data
                heard.set()
    assert output == b"onetwo"


async def test_who_leaves_is_noticed_behind_the_edge(parts: Parts) -> None:
    parts.sandbox.script = [Execution(stdout=[b"a"], hold=asyncio.Event())]
    async with contextlib.aclosing(parts.client.execute("x")) as events:
        async for event in events:
            if isinstance(event, executions.Stdout):
                break
    async with asyncio.timeout(TIMEOUT_S):
        while parts.sandbox.running:
            await asyncio.sleep(0.01)


async def test_a_browser_runs_a_program_and_moves_files(parts: Parts) -> None:
    """gRPC-Web sends a file in one request, as no browser streams one; what comes back is streamed."""
    headers = dict(bearer(parts.token))
    session = await parts.client.sandbox.create_session()
    parts.sandbox.script = [Execution(stdout=[b"hello"])]
    run = pb.ExecuteRequest(spec=execution_pb2.ExecutionSpec(code="x")).SerializeToString()
    async with edge_web.call(parts.stack.http, f"{parts.stack.url}{SERVICE}/Execute", run, headers) as call:
        events = [pb.ExecuteResponse.FromString(message).event async for message in call.messages()]
    assert [event.WhichOneof("event") for event in events] == ["started", "stdout", "exited"]

    header = pb.PutFileRequest.Header(session_id=session.session_id, path="up", size_bytes=200_000)
    sent = [pb.PutFileRequest(header=header), *(pb.PutFileRequest(chunk=b"x" * 100_000) for _ in range(2))]
    body = b"".join(edge_web.frame(part.SerializeToString()) for part in sent)
    put = {"content-type": edge_web.PROTO, "x-grpc-web": "1", **headers}
    async with parts.stack.http.post(f"{parts.stack.url}{SERVICE}/PutFile", data=body, headers=put) as answer:
        trailers = await edge_web.WebCall(answer).trailers()
    assert trailers["grpc-status"] == "0"
    get = pb.GetFileRequest(session_id=session.session_id, path="up").SerializeToString()
    async with edge_web.call(parts.stack.http, f"{parts.stack.url}{SERVICE}/GetFile", get, headers) as call:
        found = b"".join([pb.GetFileResponse.FromString(message).chunk async for message in call.messages()])
    assert found == b"x" * 200_000


async def test_strangers_move_nothing(parts: Parts) -> None:
    async with parts.stack.http.post(
        f"{parts.stack.url}{SERVICE}/PutFile", data=b"", headers={"content-type": edge_web.PROTO}
    ) as answer:
        trailers = await edge_web.WebCall(answer).trailers()
    assert edge_web.reason(trailers) == "TOKEN_INVALID"
