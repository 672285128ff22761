"""The edge before an echo, each part a process of its own: PostgreSQL, auth, the echo, Envoy."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from cryptography.fernet import Fernet
from ollamesh.auth.v1.auth_service_pb2 import CreateApiKeyRequest, LoginRequest
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceStub

from deploy.local.ports import free_ports
from services.common.grpc.client import bearer
from tests.bench.support.report import ROOT
from tests.service import edge_app
from tests.service.auth_app import ADMIN_PASSWORD, CLIENT_SECRET, ISSUER, TIMEOUT_S
from tests.service.edge_app import GET_FLEET, Stack, until_keys_are_known
from tests.stack import running_postgres

AUTH_REPLICAS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a benchmark talks to."""

    stack: Stack
    echo_port: int

    @property
    def edge_port(self) -> int:
        return self.stack.port

    async def token(self) -> str:
        return await self.stack.token()

    async def admin(self) -> tuple[tuple[str, str], ...]:
        """The metadata of an admin."""
        login = LoginRequest(username="admin", password=ADMIN_PASSWORD)
        auth = AuthServiceStub(self.stack.channel)
        return bearer((await auth.Login(login, timeout=TIMEOUT_S)).tokens.access_token)

    async def key(self) -> tuple[str, str]:
        """A new API key of the admin's, its id first."""
        auth, wish = AuthServiceStub(self.stack.channel), CreateApiKeyRequest(display_name="bench")
        made = await auth.CreateApiKey(wish, metadata=await self.admin(), timeout=TIMEOUT_S)
        return made.api_key.api_key_id, made.secret


@asynccontextmanager
async def edge_parts(**more: str) -> AsyncIterator[Parts]:
    """Run all of it until the block ends. `more` is for the edge's environment."""
    async with AsyncExitStack() as opened:
        database = opened.enter_context(opened.enter_context(running_postgres()).fresh())
        echo_port, *ports = free_ports(1 + 2 * AUTH_REPLICAS)
        auth_ports, metrics_ports = tuple(ports[:AUTH_REPLICAS]), ports[AUTH_REPLICAS:]
        auth = {
            "DATABASE_URL": database("auth"),
            "SECRET_KEY": "s" * 32,
            "ENCRYPTION_KEY": Fernet.generate_key().decode(),
            "OLLAMESH_ADMIN_PASSWORD": ADMIN_PASSWORD,
            "OLLAMESH_SERVICE_CLIENT_SECRET": CLIENT_SECRET,
            "OLLAMESH_ISSUER": ISSUER,
            "OLLAMESH_INSECURE_INSIDE": "true",
        }
        for port, metrics_port in zip(auth_ports, metrics_ports, strict=True):
            own = {"OLLAMESH_AUTH_PORT": str(port), "OLLAMESH_AUTH_METRICS_PORT": str(metrics_port)}
            await opened.enter_async_context(_running("services.auth", env={**auth, **own}))
        await opened.enter_async_context(_running("tests.bench.support.echo", str(echo_port)))
        replicas = {"auth": auth_ports, "inference": (echo_port,)}
        settings = edge_app.settings(auth_ports[0], replicas, **more)
        stack = await opened.enter_async_context(edge_app.serving(settings))
        await until_keys_are_known(stack, GET_FLEET, await stack.token())
        yield Parts(stack=stack, echo_port=echo_port)


@asynccontextmanager
async def _running(module: str, *arguments: str, env: Mapping[str, str] | None = None) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        await process.wait()
