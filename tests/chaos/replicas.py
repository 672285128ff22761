"""Replicas of the inference service as processes that share a database and a fleet, and that a test may kill."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio

from deploy.local.ports import free_ports
from tests.fakes.identity import Identity
from tests.service.inference_app import Service

ROOT = Path(__file__).parents[2]
START_WITHIN_S = 90.0  # On a machine that others use too.


@dataclass(slots=True)
class Replica:
    """One process at one address, however often it is started."""

    service: Service
    environment: dict[str, str]
    process: asyncio.subprocess.Process | None = None
    starts: int = 0

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.inference"),
            cwd=ROOT,
            env={**os.environ, **self.environment},
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        self.starts += 1

    async def until_ready(self, instance_count: int) -> None:
        async with asyncio.timeout(START_WITHIN_S):
            while True:
                await self.service.channel.channel_ready()
                with suppress(
                    grpc.aio.AioRpcError
                ):  # The channel may have seen the end of the one before only now.
                    return await self.service.until_ready(instance_count)

    async def kill(self) -> None:
        """Have it gone at once, with all that it had."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()
        self.process = None

    def pause(self) -> None:
        """Have it stand still, and not know."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    async def end(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):  # It ended by itself: what a test finds of that is said there.
                self.go_on()
                self.process.kill()
            await self.process.wait()


@dataclass(slots=True)
class Replicas:
    each: list[Replica] = field(default_factory=list)

    @property
    def services(self) -> list[Service]:
        return [replica.service for replica in self.each]


@asynccontextmanager
async def replicas(urls: Sequence[str], *, count: int, **settings: object) -> AsyncIterator[Replicas]:
    """Run the service `count` times. `settings` are knobs, as `serving` takes them."""
    identity, ports = Identity(), free_ports(count)
    async with identity.served() as auth_target, AsyncExitStack() as opened:
        found = Replicas()
        for port in ports:
            target = f"127.0.0.1:{port}"
            # A connection that was lost is tried again at once, and not after gRPC's usual minute.
            options = [("grpc.max_reconnect_backoff_ms", 200), ("grpc.initial_reconnect_backoff_ms", 50)]
            channel = await opened.enter_async_context(grpc.aio.insecure_channel(target, options))
            environment = {
                "OLLAMA_HOSTS": ",".join(urls),
                "OLLAMESH_INSECURE_INSIDE": "true",
                "OLLAMESH_AUTH_TARGET": auth_target,
                "OLLAMESH_INFERENCE_PORT": str(port),
                "OLLAMESH_INFERENCE_METRICS_PORT": "0",
                "OLLAMESH_LAME_DUCK_S": "0",
                "OLLAMESH_GRACE_S": "1",
                "OLLAMESH_POLL_EVERY_S": "0.1",
                **{
                    name if name.isupper() else f"OLLAMESH_{name.upper()}": str(value)
                    for name, value in settings.items()
                },
            }
            service = Service(channel=channel, identity=identity, stop=asyncio.Event())
            found.each.append(Replica(service, environment))
        try:
            for replica in found.each:
                await replica.start()
            for replica in found.each:
                await replica.until_ready(len(urls))
            yield found
        finally:
            for replica in found.each:
                await replica.end()
