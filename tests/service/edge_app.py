"""A real Envoy with our configuration, before a real auth service and services that only echo."""

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from deploy.local.ports import free_ports
from deploy.local.servers import envoy
from services.auth.config import Config
from services.common.launch import Guard
from tests.service import auth_app
from tests.service.auth_app import CLIENT_SECRET, ISSUER, TIMEOUT_S, Auth

LOOPBACK = "127.0.0.1"
ARGUMENTS = (
    *("--concurrency", "1"),
    *("--file-flush-interval-msec", "50", "--log-level", "warning"),
)
REPLACED_WITHIN_S = 90.0
NAMES = ("agent", "inference", "sandbox")
CHAT = "/ollamesh.inference.v1.InferenceService/Chat"
GET_FLEET = "/ollamesh.inference.v1.InferenceService/GetFleet"
WATCH_FLEET = "/ollamesh.inference.v1.InferenceService/WatchFleet"
RESUME_STREAM = "/ollamesh.inference.v1.InferenceService/ResumeStream"
START_RUN = "/ollamesh.agent.v1.AgentService/StartRun"
EXECUTE = "/ollamesh.sandbox.v1.SandboxService/Execute"
Reply = Callable[["Call"], Awaitable[None]]


@dataclass(slots=True)
class Call:
    """A call as the service behind the edge sees it."""

    path: str
    request: bytes
    context: Any
    metadata: Mapping[str, str]
    deadline_s: float | None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def write(self, message: bytes) -> None:
        await self.context.write(message)


class Echo(grpc.GenericRpcHandler):
    """Answers every method with the request's bytes, or as the test says; remembers the calls."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.reply: Reply = echo

    def reset(self) -> None:
        self.calls.clear()
        self.reply = echo

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        path = details.method
        return (
            None
            if path.startswith("/grpc.health.")
            else grpc.unary_stream_rpc_method_handler(self._handler(path))
        )

    def _handler(self, path: str) -> Any:
        async def handle(request: bytes, context: Any) -> None:
            metadata = {key: str(value) for key, value in context.invocation_metadata()}
            call = Call(path, request, context, metadata, context.time_remaining())
            self.calls.append(call)
            try:
                await self.reply(call)
            finally:
                call.ended.set()

        return handle


async def echo(call: Call) -> None:
    await call.write(call.request)


@dataclass(slots=True)
class Replica:
    """One echoing service and its health."""

    port: int
    echo: Echo
    health: health.HealthServicer

    async def set_ready(self, *, ready: bool) -> None:
        status = health_pb2.HealthCheckResponse
        await self.health.set("", status.SERVING if ready else status.NOT_SERVING)


@asynccontextmanager
async def replica(port: int = 0) -> AsyncIterator[Replica]:
    server, servicer, echo = grpc.aio.server(), health.HealthServicer(), Echo()
    add_HealthServicer_to_server(servicer, server)
    server.add_generic_rpc_handlers((echo,))
    running = Replica(server.add_insecure_port(f"{LOOPBACK}:{port}"), echo, servicer)
    await running.set_ready(ready=True)
    await server.start()
    try:
        yield running
    finally:
        await server.stop(0)


@dataclass(slots=True)
class Stack:
    """What a test holds of a running edge."""

    port: int
    admin_port: int
    channel: grpc.aio.Channel
    http: aiohttp.ClientSession
    log: Path
    folder: Path  # Of the files that Envoy watches.
    tls_port: int
    process: asyncio.subprocess.Process = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def tls_url(self) -> str:
        return f"https://{LOOPBACK}:{self.tls_port}"

    @property
    def admin_url(self) -> str:
        return f"http://{LOOPBACK}:{self.admin_port}"

    async def token(self) -> str:
        """A service account's token, fetched as any OAuth client would, once the auth service is ready."""
        form = {
            "grant_type": "client_credentials",
            "client_id": "ollamesh",
            "client_secret": CLIENT_SECRET,
        }
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                async with self.http.post(f"{self.url}/oauth/token", data=form) as answer:
                    if answer.status == 200:
                        token: str = (await answer.json())["access_token"]
                        return token
                    assert answer.status == 503, await answer.text()
                await asyncio.sleep(0.05)

    async def replace(self) -> None:
        """Return when another Envoy serves, and the old one has ended. Only if it is kept."""
        before = self.keeper()["reload_count"]
        self.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(REPLACED_WITHIN_S):
            while (told := self.keeper())["reload_count"] == before or told["draining_pid"] is not None:
                assert self.process.returncode is None
                await asyncio.sleep(0.1)
        assert told["error"] == ""

    def keeper(self) -> dict[str, Any]:
        """What the keeper of Envoy tells of its reloads."""
        told: dict[str, Any] = json.loads((self.log.parent / "envoy.state").read_text())
        return told

    def unary(self, path: str) -> Any:
        """Call a method through the edge with bytes."""
        return self.channel.unary_unary(path)

    def stream(self, path: str) -> Any:
        return self.channel.unary_stream(path)


def settings(auth_port: int, replicas: Mapping[str, tuple[int, ...]], **more: str) -> dict[str, str]:
    """The edge's environment, on free ports. Services that are not named have nobody behind them."""
    edge, edge_tls, admin, *nobody = free_ports(6)
    alone = {name: (port,) for name, port in zip(NAMES, nobody, strict=True)}
    ports: dict[str, tuple[int, ...]] = {"auth": (auth_port,), **alone, **replicas}
    return {
        "OLLAMESH_BIND": LOOPBACK,
        "OLLAMESH_ISSUER": ISSUER,
        "OLLAMESH_INSECURE_INSIDE": "true",
        "OLLAMESH_EDGE_KEYS_TIMEOUT_S": "5",  # Busy machines are slow to look keys up.
        "OLLAMESH_EDGE_PORT": str(edge),
        "OLLAMESH_EDGE_TLS_PORT": str(edge_tls),
        "OLLAMESH_ADMIN_PORT": str(admin),
        **{
            f"OLLAMESH_{name.upper()}_REPLICAS": ",".join(f"{LOOPBACK}:{port}" for port in found)
            for name, found in ports.items()
        },
        **more,
    }


async def rendered(env: Mapping[str, str]) -> bytes:
    """The configuration, printed as `make up` has it printed; the files that it refers to are written."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.envoy", "--write"),
        env={**os.environ, **env},
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    return printed


@asynccontextmanager
async def serving(env: Mapping[str, str], *, kept: bool = False) -> AsyncIterator[Stack]:
    """Run Envoy until the block ends; `kept` by who can replace it."""
    async with AsyncExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        env = {"OLLAMESH_EDGE_FOLDER": str(folder / "edge"), **env}
        (folder / "envoy.json").write_bytes(await rendered(env))
        argv = [str(envoy()), "-c", str(folder / "envoy.json"), "--disable-hot-restart", *ARGUMENTS]
        if kept:
            keeper = (sys.executable, "-m", "deploy.envoy.serve")
            argv = [*keeper, str(envoy()), str(folder / "envoy.json"), *ARGUMENTS]
        with (folder / "log").open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *Guard().command(argv), stdout=output, stderr=output, env={**os.environ, **env}
            )
        port, admin_port = int(env["OLLAMESH_EDGE_PORT"]), int(env["OLLAMESH_ADMIN_PORT"])
        http = await opened.enter_async_context(aiohttp.ClientSession())
        channel = await opened.enter_async_context(grpc.aio.insecure_channel(f"{LOOPBACK}:{port}"))
        watched = Path(env["OLLAMESH_EDGE_FOLDER"])
        tls_port = int(env["OLLAMESH_EDGE_TLS_PORT"])
        stack = Stack(port, admin_port, channel, http, folder / "log", watched, tls_port, process)
        try:
            await _until_ready(stack, process)
            yield stack
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def _until_ready(stack: Stack, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            with suppress(aiohttp.ClientError):
                async with stack.http.get(f"{stack.admin_url}/ready") as answer:
                    if answer.status == 200:
                        return
            assert process.returncode is None, stack.log.read_text()
            await asyncio.sleep(0.02)


async def until_keys_are_known(stack: Stack, path: str, token: str) -> None:
    """Envoy fetches the keys when it pleases; until then nobody's token can be checked."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                await stack.unary(path)(
                    b"", metadata=(("authorization", f"Bearer {token}"),), timeout=TIMEOUT_S
                )
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.02)
            else:
                return


async def until_healthy(stack: Stack, count: int) -> None:
    """Wait until Envoy knows that many replicas to be ready."""
    async with asyncio.timeout(TIMEOUT_S):
        while await stat(stack, "cluster.inference.membership_healthy") != count:
            await asyncio.sleep(0.1)


async def stat(stack: Stack, name: str) -> int:
    async with stack.http.get(f"{stack.admin_url}/stats?filter=^{name}$") as answer:
        return int((await answer.text()).split()[-1])


@dataclass(slots=True)
class World:
    """The edge and all that is behind it."""

    stack: Stack
    auth: Auth
    replicas: Mapping[str, Replica]

    @property
    def echo(self) -> Echo:
        return self.replicas["inference"].echo

    def calls(self) -> int:
        """How many calls reached any service behind the edge."""
        return sum(len(replica.echo.calls) for replica in self.replicas.values())


@asynccontextmanager
async def whole(config: Config, **more: str) -> AsyncIterator[World]:
    """Auth, one replica of each service, and Envoy, ready to check tokens."""
    async with AsyncExitStack() as opened:
        auth = await opened.enter_async_context(auth_app.serving(config))
        replicas = {name: await opened.enter_async_context(replica()) for name in NAMES}
        ports = {name: (found.port,) for name, found in replicas.items()}
        stack = await opened.enter_async_context(serving(settings(auth.port, ports, **more)))
        world = World(stack, auth, replicas)
        await until_keys_are_known(stack, GET_FLEET, await stack.token())
        yield world
