"""A mesh of real processes, each service twice, behind an Envoy that can be replaced: what a rolling restart is about."""

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
from cryptography.fernet import Fernet
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from deploy.local.ports import free_ports
from services.common.launch import Guard
from tests.fakes.fake_ollama import FakeOllama
from tests.service import edge_app
from tests.service.auth_app import CLIENT_SECRET, ISSUER
from tests.service.inference_app import TINY, preload
from tests.service.sandbox_app import built_root
from tests.stack import Database

ROOT = Path(__file__).parents[2]
START_WITHIN_S = 90.0  # On a machine that others use too.
END_WITHIN_S = 60.0
# Not ready but still serving, for longer than the edge takes to notice: it asks each second, and believes the second no.
LAME_DUCK_S, GRACE_S = 3, 6
DRAIN_S = 8
SERVICES = ("auth", "inference", "sandbox", "agent")
WITH_DATABASE = ("auth", "inference", "agent")


@dataclass(slots=True)
class Member:
    """One replica of a service, however often it is started."""

    service: str
    port: int
    environment: Mapping[str, str]
    process: asyncio.subprocess.Process | None = None
    root: Path = ROOT  # Whose code it is.

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *Guard(folder=str(self.root)).command((sys.executable, "-m", f"services.{self.service}")),
            env={**os.environ, **self.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        await self._until_ready()

    async def restart(self) -> None:
        """As an operator would: ask it to end, and start it when it has."""
        await self.end()
        await self.start()

    async def end(self) -> None:
        assert self.process is not None
        with suppress(ProcessLookupError):
            self.process.terminate()
        async with asyncio.timeout(END_WITHIN_S):
            await self.process.wait()

    async def _until_ready(self) -> None:
        async with (
            asyncio.timeout(START_WITHIN_S),
            grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel,
        ):
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=HealthCheckRequest.SerializeToString,
                response_deserializer=HealthCheckResponse.FromString,
            )
            while True:
                with suppress(grpc.aio.AioRpcError):
                    answer = await check(HealthCheckRequest(), timeout=1)
                    if answer.status == HealthCheckResponse.SERVING:
                        return
                assert self.process is not None
                assert self.process.returncode is None, f"{self.service} does not start"
                await asyncio.sleep(0.1)


@dataclass(slots=True)
class Mesh:
    stack: edge_app.Stack
    fake: FakeOllama
    members: Mapping[str, Sequence[Member]]


def _environments(
    database: Database, fake_url: str, ports: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, str]]:
    def target(service: str) -> str:
        return "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports[service])

    usual = {
        "OLLAMESH_ISSUER": ISSUER,
        "OLLAMESH_LAME_DUCK_S": str(LAME_DUCK_S),
        "OLLAMESH_GRACE_S": str(GRACE_S),
        "OLLAMESH_AUTH_TARGET": target("auth"),
        "OLLAMESH_INFERENCE_TARGET": target("inference"),
        "OLLAMESH_INSECURE_INSIDE": "true",
    }
    auth = {
        "SECRET_KEY": secrets.token_hex(32),
        "ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "OLLAMESH_ADMIN_PASSWORD": secrets.token_hex(16),
        "OLLAMESH_SERVICE_CLIENT_SECRET": CLIENT_SECRET,
    }
    own = {
        "auth": auth,
        "inference": {"OLLAMA_HOSTS": fake_url, "OLLAMESH_INSTANCE_SLOTS": "32"},
        "sandbox": {"OLLAMESH_SANDBOX_ROOT": str(built_root().parent), "OLLAMESH_SANDBOX_WARM_COUNT": "1"},
        "agent": {
            "OLLAMESH_SANDBOX_TARGET": target("sandbox"),
            "ENCRYPTION_KEY": Fernet.generate_key().decode(),
        },
    }
    stores = {service: {"DATABASE_URL": database(service)} for service in WITH_DATABASE}
    return {service: {**usual, **own[service], **stores.get(service, {})} for service in SERVICES}


@asynccontextmanager
async def _members(database: Database, fake_url: str) -> AsyncIterator[dict[str, list[Member]]]:
    free = free_ports(4 * len(SERVICES))
    ports = {service: [free.pop(), free.pop()] for service in SERVICES}
    found: dict[str, list[Member]] = {}
    try:
        for service, environment in _environments(database, fake_url, ports).items():
            prefix = f"OLLAMESH_{service.upper()}"
            found[service] = [
                Member(
                    service,
                    port,
                    {**environment, f"{prefix}_PORT": str(port), f"{prefix}_METRICS_PORT": str(free.pop())},
                )
                for port in ports[service]
            ]
            for member in found[service]:
                await member.start()
        yield found
    finally:
        for member in (one for each in found.values() for one in each):
            if member.process is not None and member.process.returncode is None:
                member.process.kill()
                await member.process.wait()


@asynccontextmanager
async def rolling(database: Database, **edge: str) -> AsyncIterator[Mesh]:
    """The mesh, ready. What is asked of it goes through the edge, of which `edge` are further settings."""
    async with AsyncExitStack() as opened:
        fake = await opened.enter_async_context(FakeOllama(TINY, parallel=64))
        await preload(fake, TINY)
        members = await opened.enter_async_context(_members(database, fake.url))
        ports = {service: tuple(one.port for one in each) for service, each in members.items()}
        env = edge_app.settings(0, {service: ports[service] for service in SERVICES if service != "auth"})
        env["OLLAMESH_AUTH_REPLICAS"] = ",".join(f"127.0.0.1:{port}" for port in ports["auth"])
        env |= {"OLLAMESH_EDGE_DRAIN_S": str(DRAIN_S), **edge}
        stack = await opened.enter_async_context(edge_app.serving(env, kept=True))
        yield Mesh(stack, fake, members)
