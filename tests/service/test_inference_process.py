"""The service as a process of its own, on the event loop that it runs on: it starts, serves, drains, or says why not."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
from ollamesh.inference.v1.inference_service_pb2 import EmbedRequest

from deploy.local.ports import free_ports
from tests.fakes.fake_ollama import Cut, FakeOllama, Hang
from tests.fakes.identity import Identity
from tests.service.inference_app import (
    TINY,
    WITHIN_S,
    Service,
    asked,
    events_of,
    grammar,
    left,
    refused,
    until_event,
)

REPOSITORY = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "services.inference")


@asynccontextmanager
async def started(url: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, Service]]:
    identity, (port,) = Identity(), free_ports(1)
    async with identity.served() as auth_target:
        settings = {
            "OLLAMA_HOSTS": url,
            "OLLAMESH_INSECURE_INSIDE": "true",
            "OLLAMESH_AUTH_TARGET": auth_target,
            "OLLAMESH_INFERENCE_PORT": str(port),
            "OLLAMESH_INFERENCE_METRICS_PORT": "0",
            "OLLAMESH_LAME_DUCK_S": "0",
            "OLLAMESH_GRACE_S": "20",
            "OLLAMESH_POLL_EVERY_S": "0.05",
        }
        process = await asyncio.create_subprocess_exec(
            *COMMAND, cwd=REPOSITORY, env={**os.environ, **settings}, stderr=subprocess.PIPE
        )
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                await asyncio.wait_for(channel.channel_ready(), WITHIN_S)
                service = Service(channel=channel, identity=identity, stop=asyncio.Event())
                await service.until_ready(1)
                yield process, service
        finally:
            if process.returncode is None:
                process.kill()


async def test_it_serves_cancels_fails_and_drains() -> None:
    gate = asyncio.Event()
    async with FakeOllama(TINY) as fake, started(fake.url) as (process, service):
        assert grammar(await events_of(service.chat("hello"))) == "OQSDF", "it waits for the load"
        await service.call("Embed", EmbedRequest(model="tiny", input=["x"]))

        fake.script("a", Hang())
        leaving = service.chat()
        await until_event(leaving, "delta")
        leaving.cancel()
        assert await left(await asked(fake, 2))

        fake.script("a", Cut())
        assert (await refused(service.chat())).reason == "INSTANCE_LOST"
        await service.until_ready(1)

        fake.script("a", gate, "b")
        last = service.chat()
        await until_event(last, "delta")
        process.send_signal(signal.SIGTERM)
        gate.set()
        await until_event(last, "finished")
        _, log = await asyncio.wait_for(process.communicate(), WITHIN_S)
    assert process.returncode == 0
    assert b'"service": "inference"' in log
    assert b"hello" not in log, "prompts are not logged"
    assert b"Traceback" not in log


def test_it_says_what_is_wrong_with_its_environment_and_starts_nothing() -> None:
    settings = {
        "OLLAMA_HOSTS": "ftp://secret",
        "OLLAMESH_INSTANCE_SLOTS": "many",
        "OLLAMESH_INSECURE_INSIDE": "true",
    }
    done = subprocess.run(
        COMMAND, cwd=REPOSITORY, env={**os.environ, **settings}, capture_output=True, check=False, timeout=60
    )
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 2
    assert len(lines) == 2
    assert any("OLLAMA_HOSTS" in line for line in lines)
    assert any("OLLAMESH_INSTANCE_SLOTS" in line for line in lines)
    assert "secret" not in done.stderr.decode()
