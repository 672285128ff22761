"""The inference service as a program of several processes, and a caller of each."""

import asyncio
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import grpc.aio
import psutil
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.ports import free_ports
from tests.fakes.identity import Identity
from tests.service.inference_app import WITHIN_S, Service, until

REPOSITORY = Path(__file__).parents[2]
START_WITHIN_S = 90.0  # Each process imports all that it needs, on a machine that others use too.
COMMAND = (sys.executable, "-m", "services.inference")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A running head, its workers, and a caller of each worker."""

    head: asyncio.subprocess.Process
    services: tuple[Service, ...]
    ports: tuple[int, ...]
    metrics_port: int
    auth_port: int

    def workers(self) -> list[psutil.Process]:
        """Its workers, by place."""
        found = psutil.Process(self.head.pid).children()
        return sorted(found, key=lambda process: process.cmdline()[-1])

    async def until_ready(self, count: int = 1) -> None:
        """Return when every worker sees so many instances ready."""
        await asyncio.gather(*(service.until_ready(count) for service in self.services))

    async def counted(self, name: str) -> dict[frozenset[str], float]:
        """Return a metric's samples, by the values of their labels."""

        def read() -> str:
            with urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=WITHIN_S) as answer:
                return str(answer.read().decode())

        found: defaultdict[frozenset[str], float] = defaultdict(float)
        for family in text_string_to_metric_families(await asyncio.to_thread(read)):
            for sample in family.samples:
                if sample.name == name:
                    found[frozenset(sample.labels.values())] += sample.value
        return found

    async def until_counted(self, name: str, holds: Callable[[dict[frozenset[str], float]], bool]) -> None:
        """Return when a metric is as it should be."""
        async with asyncio.timeout(WITHIN_S):
            while not holds(await self.counted(name)):
                await asyncio.sleep(0.05)

    async def until_back(self, place: int) -> None:
        """Return when a worker that was ended takes calls again."""
        async with asyncio.timeout(START_WITHIN_S):
            await self.services[place].channel.channel_ready()
        await self.services[place].until_ready(1)

    async def until_gone(self, process: psutil.Process) -> None:
        await until(lambda: not process.is_running())


@asynccontextmanager
async def program(*urls: str, processes: int = 2, **settings: object) -> AsyncIterator[Program]:
    """Run the service over instances. `settings` are knobs; in lower case, without their OLLAMESH_ prefix."""
    identity, (metrics_port, *ports) = Identity(), free_ports(processes + 1)
    async with identity.served() as auth_target, AsyncExitStack() as opened:
        environment = {
            "OLLAMA_HOSTS": ",".join(urls),
            "OLLAMESH_INSECURE_INSIDE": "true",
            "OLLAMESH_AUTH_TARGET": auth_target,
            "OLLAMESH_INFERENCE_PROCESSES": str(processes),
            "OLLAMESH_INFERENCE_PORTS": ",".join(map(str, ports)),
            "OLLAMESH_INFERENCE_METRICS_PORT": str(metrics_port),
            "OLLAMESH_LAME_DUCK_S": "0",
            "OLLAMESH_GRACE_S": "20",
            "OLLAMESH_POLL_EVERY_S": "0.05",
            "OLLAMESH_REDIS_TIMEOUT_S": "0.5",
            **{
                name if name.isupper() else f"OLLAMESH_{name.upper()}": str(value)
                for name, value in settings.items()
            },
        }
        head = await asyncio.create_subprocess_exec(
            *COMMAND, cwd=REPOSITORY, env={**os.environ, **environment}, stderr=subprocess.PIPE
        )
        try:
            channels = [
                await opened.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
                for port in ports
            ]
            async with asyncio.timeout(START_WITHIN_S):
                await asyncio.gather(*(channel.channel_ready() for channel in channels))
            found = Program(
                head=head,
                services=tuple(
                    Service(channel=channel, identity=identity, stop=asyncio.Event()) for channel in channels
                ),
                ports=tuple(ports),
                metrics_port=metrics_port,
                auth_port=int(auth_target.rpartition(":")[2]),
            )
            await found.until_ready(len(urls))
            yield found
        finally:
            if head.returncode is None:
                head.kill()
                await head.communicate()
