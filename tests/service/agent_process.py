"""`python -m services.agent` in a process of its own, which can be killed."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ollamesh.agent.v1.agent_service_pb2_grpc import AgentServiceStub

from deploy.local.ports import free_ports
from tests.service.agent_app import ENCRYPTION_KEY, Mesh, User

READY = health_pb2.HealthCheckResponse.SERVING
READY_WITHIN_S = 60


@dataclass(frozen=True, slots=True)
class Process:
    """One replica, ready, and how to call it."""

    running: subprocess.Popen[bytes]
    channel: grpc.aio.Channel
    around: Mesh

    @property
    def pid(self) -> int:
        return self.running.pid

    def user(self, name: str = "ann", *, org: str = "o") -> User:
        token = self.around.identity.token(user_id=name, org=org)
        return User(AgentServiceStub(self.channel), token)


@asynccontextmanager
async def process(around: Mesh, **settings: str) -> AsyncIterator[Process]:
    (port,) = free_ports(1)
    argv = [sys.executable, "-m", "services.agent"]
    env = environment(around, port, **settings)
    with subprocess.Popen(argv, env=env, stderr=subprocess.DEVNULL) as running:  # noqa: ASYNC220 - It forks.
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                async with asyncio.timeout(READY_WITHIN_S):
                    while await readiness(channel, wait_for_ready=True) != READY:
                        await asyncio.sleep(0.05)
                yield Process(running, channel, around)
        finally:
            running.kill()


def environment(around: Mesh, port: int, **settings: str) -> Mapping[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "DATABASE_URL": around.dsn,
        "ENCRYPTION_KEY": ENCRYPTION_KEY,
        "OLLAMESH_AGENT_PORT": str(port),
        "OLLAMESH_AGENT_METRICS_PORT": "0",
        "OLLAMESH_INSECURE_INSIDE": "true",
        "OLLAMESH_AUTH_TARGET": around.auth_target,
        "OLLAMESH_INFERENCE_TARGET": around.inference.target,
        "OLLAMESH_SANDBOX_TARGET": around.sandbox.target,
        "OLLAMESH_AGENT_LEASE_S": "1",
        "OLLAMESH_LAME_DUCK_S": "0",
        "OLLAMESH_GRACE_S": "1",
        **settings,
    }


async def readiness(channel: grpc.aio.Channel, service: str = "", *, wait_for_ready: bool = False) -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=service)
    reply = await stub.Check(request, timeout=READY_WITHIN_S, wait_for_ready=wait_for_ready)
    return int(reply.status)
