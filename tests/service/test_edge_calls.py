"""What becomes of a call on its way through the edge: deadlines, streams, failures, retries, balance."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from services.common.errors import Kind, MeshError
from services.common.grpc.client import bearer
from services.common.grpc.errors import DETAILS_KEY, status_of
from tests.service import auth_app, edge_app, edge_web
from tests.service.auth_app import TIMEOUT_S, failure, retry_after_s
from tests.service.edge_app import (
    CHAT,
    EXECUTE,
    GET_FLEET,
    RESUME_STREAM,
    START_RUN,
    WATCH_FLEET,
    Call,
    World,
    echo,
    whole,
)
from tests.stack import Database

ORIGINS = "http://localhost:*, https://app.example"
pytestmark = pytest.mark.asyncio(loop_scope="module")


class Lost(MeshError):
    kind, reason = Kind.UNAVAILABLE, "INSTANCE_LOST"
    message = "the instance is gone"
    retry_after_s = 1.5


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(module_database: Database) -> AsyncIterator[World]:
    async with whole(auth_app.config(module_database("auth")), OLLAMESH_CORS_ORIGINS=ORIGINS) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="module")
async def world(running: World) -> World:
    """The running edge, with services that echo and have not been called yet."""
    for replica in running.replicas.values():
        replica.echo.reset()
    return running


@pytest_asyncio.fixture(loop_scope="module")
async def token(running: World) -> str:
    return await running.stack.token()


def web_headers(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.mark.parametrize(
    ("path", "deadline_s"),
    [(CHAT, 300), (GET_FLEET, 300), (START_RUN, 300), (EXECUTE, 300), (WATCH_FLEET, 3600), (RESUME_STREAM, 3600),
     ("/ollamesh.agent.v1.AgentService/WatchRun", 3600), ("/ollamesh.sandbox.v1.SandboxService/WatchExecution", 3600)],
)  # fmt: skip
async def test_a_call_without_a_deadline_gets_one(
    world: World, token: str, path: str, deadline_s: float
) -> None:
    async with edge_web.call(world.stack.http, world.stack.url + path, headers=web_headers(token)) as call:
        assert (await call.trailers())["grpc-status"] == "0"
    seen = [call for replica in world.replicas.values() for call in replica.echo.calls]
    assert len(seen) == 1
    assert seen[0].deadline_s == pytest.approx(deadline_s, abs=5)


async def test_a_deadline_of_ones_own_is_kept(world: World, token: str) -> None:
    await world.stack.unary(CHAT)(b"", metadata=bearer(token), timeout=7)
    assert world.echo.calls[-1].deadline_s == pytest.approx(7, abs=1)


async def test_a_deadline_ends_a_call_that_its_service_would_not(world: World, token: str) -> None:
    async def never(call: Call) -> None:
        await asyncio.sleep(3600)

    world.echo.reply = never
    headers = web_headers(token) | {"grpc-timeout": "200m"}
    async with edge_web.call(world.stack.http, world.stack.url + CHAT, headers=headers) as call:
        assert (await call.trailers())["grpc-status"] == "4"
    async with asyncio.timeout(TIMEOUT_S):
        await world.echo.calls[0].ended.wait()


class Script:
    """A stream that the test writes, message by message."""

    def __init__(self, *lines: bytes) -> None:
        self.lines: asyncio.Queue[bytes | MeshError | None] = asyncio.Queue()
        for line in lines:
            self.lines.put_nowait(line)

    async def __call__(self, call: Call) -> None:
        while (line := await self.lines.get()) is not None:
            if isinstance(line, MeshError):
                details = ((DETAILS_KEY, status_of(line, "inference.ollamesh").SerializeToString()),)
                await call.context.abort(grpc.StatusCode.UNAVAILABLE, str(line), details)
            else:
                await call.write(line)


async def test_a_stream_flows_message_by_message_in_grpc(world: World, token: str) -> None:
    world.echo.reply = script = Script()
    stream = world.stack.stream(CHAT)(b"", metadata=bearer(token), timeout=TIMEOUT_S)
    for word in (b"one", b"two", b"three"):
        script.lines.put_nowait(word)
        assert await stream.read() == word  # Read before the next is written.
    script.lines.put_nowait(None)
    assert await stream.read() == grpc.aio.EOF


async def test_a_stream_flows_message_by_message_in_grpc_web(world: World, token: str) -> None:
    world.echo.reply = script = Script(b"one")
    async with edge_web.call(world.stack.http, world.stack.url + CHAT, headers=web_headers(token)) as call:
        for word, next_word in ((b"one", b"two"), (b"two", b"three"), (b"three", None)):
            assert await call.next() == (0, word)
            script.lines.put_nowait(next_word)
        assert (await call.trailers())["grpc-status"] == "0"


async def test_a_failure_in_the_middle_arrives_with_its_details_in_grpc(world: World, token: str) -> None:
    world.echo.reply = script = Script(b"one")
    stream = world.stack.stream(CHAT)(b"", metadata=bearer(token), timeout=TIMEOUT_S)
    assert await stream.read() == b"one"
    script.lines.put_nowait(Lost(last_sequence=1))
    with pytest.raises(grpc.aio.AioRpcError) as lost:
        await stream.read()
    assert failure(lost.value) == (grpc.StatusCode.UNAVAILABLE, "INSTANCE_LOST")
    assert retry_after_s(lost.value) == 1.5
    assert len(world.echo.calls) == 1, "a stream that has begun is never tried again"


async def test_a_failure_in_the_middle_arrives_with_its_details_in_grpc_web(world: World, token: str) -> None:
    world.echo.reply = script = Script(b"one")
    async with edge_web.call(world.stack.http, world.stack.url + CHAT, headers=web_headers(token)) as call:
        assert await call.next() == (0, b"one")
        script.lines.put_nowait(Lost(last_sequence=1))
        trailers = await call.trailers()
    assert (trailers["grpc-status"], edge_web.reason(trailers)) == ("14", "INSTANCE_LOST")


async def test_who_leaves_is_not_worked_for_in_grpc(world: World, token: str) -> None:
    world.echo.reply = Script(b"one")
    stream = world.stack.stream(CHAT)(b"", metadata=bearer(token), timeout=TIMEOUT_S)
    assert await stream.read() == b"one"
    stream.cancel()
    async with asyncio.timeout(TIMEOUT_S):
        await world.echo.calls[0].ended.wait()


async def test_who_leaves_is_not_worked_for_in_grpc_web(world: World, token: str) -> None:
    world.echo.reply = Script(b"one")
    async with edge_web.call(world.stack.http, world.stack.url + CHAT, headers=web_headers(token)) as call:
        assert await call.next() == (0, b"one")
        call.answer.close()
    async with asyncio.timeout(TIMEOUT_S):
        await world.echo.calls[0].ended.wait()


@pytest.mark.parametrize("size_bytes", [1, 100_000, 4_000_000])
async def test_messages_may_be_large(world: World, token: str, size_bytes: int) -> None:
    message = b"x" * size_bytes
    answer = await world.stack.unary(CHAT)(message, metadata=bearer(token), timeout=TIMEOUT_S)
    assert answer == message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("grpc-timeout", "abc"),
        ("grpc-timeout", "99999999H"),
        ("grpc-encoding", "nonsense"),
        ("grpc-previous-rpc-attempts", "many"),
        ("grpc-trace-bin", "%%%"),
        ("x-anything-bin", "!!!"),
        ("x-anything", "y" * 20_000),
        ("te", "nonsense"),
    ],
)
async def test_what_one_caller_sends_harms_no_other(world: World, token: str, name: str, value: str) -> None:
    """They share a connection to the service, and what its server made of a header must not outlive a call."""
    headers = web_headers(token) | {name: value}
    others = (*bearer(token), ("x-anything-bin", b"fine"), ("grpc-trace-bin", b"fine"))
    for _ in range(3):
        async with edge_web.call(world.stack.http, world.stack.url + CHAT, headers=headers) as call:
            await call.answer.read()
        for _ in range(3):
            assert await world.stack.unary(CHAT)(b"hi", metadata=others, timeout=TIMEOUT_S) == b"hi"


async def test_slow_readers_hold_up_nobody_and_pile_up_little(world: World, token: str) -> None:
    async def flood(call: Call) -> None:
        while True:
            await call.write(b"x" * 60_000)

    before = await allocated_bytes(world)
    async with contextlib.AsyncExitStack() as opened:
        world.echo.reply = flood
        for _ in range(50):
            call = edge_web.call(world.stack.http, world.stack.url + CHAT, headers=web_headers(token))
            await opened.enter_async_context(call)  # And reads nothing.
        world.echo.reply = echo
        for _ in range(20):
            assert await world.stack.unary(CHAT)(b"hi", metadata=bearer(token), timeout=TIMEOUT_S) == b"hi"
        assert await allocated_bytes(world) - before < 64 * 1024 * 1024


async def allocated_bytes(world: World) -> int:
    async with world.stack.http.get(
        f"{world.stack.admin_url}/stats?filter=server.memory_allocated"
    ) as answer:
        return int((await answer.text()).split()[-1])


async def refuse(call: Call) -> None:
    await call.context.abort(grpc.StatusCode.UNAVAILABLE, "not now")


@pytest.mark.parametrize(("path", "times"), [(GET_FLEET, 3), (CHAT, 1), (START_RUN, 1), (EXECUTE, 1)])
async def test_only_reads_are_tried_again_after_a_refusal(
    world: World, token: str, path: str, times: int
) -> None:
    for replica in world.replicas.values():
        replica.echo.reply = refuse
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await world.stack.unary(path)(b"", metadata=bearer(token), timeout=TIMEOUT_S)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert world.calls() == times


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:3000", True),
        ("http://localhost", True),
        ("https://app.example", True),
        ("http://localhost.evil.example", False),
        ("http://localhost:3000.evil.example", False),
        ("https://localhost:3000", False),
        ("https://app.example:444", False),
        ("https://appXexample", False),
        ("null", False),
    ],
)
async def test_pages_of_the_configured_origins_may_call(
    world: World,
    token: str,
    origin: str,
    allowed: bool,  # noqa: FBT001
) -> None:
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-grpc-web,grpc-timeout",
    }
    url = world.stack.url + CHAT
    async with world.stack.http.options(url, headers=asked) as answer:
        assert (answer.headers.get("access-control-allow-origin") == origin) is allowed
        assert answer.status == (200 if allowed else 401)
        if allowed:
            names = answer.headers["access-control-allow-headers"].split(", ")
            assert {"authorization", "content-type", "x-grpc-web", "grpc-timeout"} <= set(names)
        assert "access-control-allow-credentials" not in answer.headers
    headers = web_headers(token) | {"origin": origin}
    async with edge_web.call(world.stack.http, url, headers=headers) as call:
        exposed = call.answer.headers.get("access-control-expose-headers", "")
        assert ("grpc-status-details-bin" in exposed) is allowed


async def test_a_second_edge_on_the_same_port_does_not_start(world: World) -> None:
    env = edge_app.settings(world.auth.port, {}) | {"OLLAMESH_EDGE_PORT": str(world.stack.port)}
    with pytest.raises(AssertionError, match="Address already in use"):
        async with edge_app.serving(env):
            pass


async def test_health_is_told_without_a_token(world: World) -> None:
    async with world.stack.http.get(f"{world.stack.url}/healthz") as answer:
        assert (answer.status, await answer.text()) == (200, "ok\n")


@pytest.mark.parametrize(
    ("path", "status"),
    [("/ready", 200), ("/stats?filter=none", 200), ("/stats/prometheus?usedonly", 200),
     ("/config_dump", 403), ("/quitquitquit", 403), ("/drain_listeners", 403), ("/logging", 403), ("/certs", 403),
     ("/stats/../config_dump", 403), ("/statsx", 403), ("/", 403)],
)  # fmt: skip
async def test_the_admin_port_tells_but_obeys_nobody(world: World, path: str, status: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.stack.admin_port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: admin\r\n\r\n".encode())
    assert int((await reader.readline()).split()[1]) == status
    writer.close()


async def test_the_access_log_names_calls_and_keeps_secrets_out(world: World, token: str) -> None:
    already = len(world.stack.log.read_text())
    url = f"{world.stack.url}{CHAT}?secret=hunter2"
    async with edge_web.call(world.stack.http, url, b"hunter3", web_headers(token)) as call:
        await call.trailers()
    async with world.stack.http.get(f"{world.stack.url}/.well-known/jwks.json?secret=hunter2") as answer:
        await answer.read()
    await world.stack.http.post(f"{world.stack.url}/oauth/token", data={"client_secret": "hunter4"})

    # Lines come when calls end and buffers are full or old, in no order that can be relied on.
    by_path: dict[str, dict[str, object]] = {}
    async with asyncio.timeout(TIMEOUT_S):
        while not {CHAT, "/.well-known/jwks.json", "/oauth/token"} <= set(by_path):
            await asyncio.sleep(0.05)
            logged = world.stack.log.read_text()[already:]
            by_path |= {line["path"]: line for line in map(json.loads, _whole_lines(logged))}
    called, keys = by_path[CHAT], by_path["/.well-known/jwks.json"]
    assert (called["method"], called["upstream"]) == ("POST", "inference")
    assert (keys["method"], keys["status"]) == ("GET", 200)
    logged = world.stack.log.read_text()
    assert not [secret for secret in ("hunter", token, token.split(".")[2], "Bearer") if secret in logged]


def _whole_lines(log: str) -> list[str]:
    return [line for line in log.splitlines(keepends=True) if line.startswith("{") and line.endswith("\n")]
