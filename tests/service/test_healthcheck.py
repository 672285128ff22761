"""A service asks itself, by its own certificate, whether it serves: what a container's HEALTHCHECK runs."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from deploy.local.core.authorities import Pace
from deploy.local.identities import Identities, files_of
from deploy.local.ports import free_ports
from services.common.certificates import Files
from services.common.config import Environment
from services.common.grpc.server import Server, ServerConfig
from services.common.healthcheck import main


def variables(files: Files, port: int) -> dict[str, str]:
    return {
        "OLLAMESH_SERVICE": "agent",
        "OLLAMESH_BIND": "0.0.0.0",
        "OLLAMESH_AGENT_PORT": str(port),
        "OLLAMESH_TLS_CERT": str(files.certificate),
        "OLLAMESH_TLS_KEY": str(files.key),
        "OLLAMESH_TLS_CA": str(files.authorities),
        "OLLAMESH_LAME_DUCK_S": "0",
    }


@pytest.fixture
def home(tmp_path: Path) -> Path:
    pace = Pace(leaf_s=3600, authority_s=36_000, announced_s=1)
    Identities(tmp_path, pace, trust_domain="ollamesh", namespace="default").renew()
    return tmp_path


async def asked(env: dict[str, str], *arguments: str) -> int:
    """As a container does it: a program of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.common.healthcheck", *arguments),
        env={"PATH": os.environ["PATH"], **env},
        stderr=asyncio.subprocess.DEVNULL,
    )
    return await process.wait()


async def test_it_says_what_the_service_says(home: Path) -> None:
    (port,) = free_ports(1)
    env = variables(files_of(home, "agent"), port)
    config = ServerConfig.read(Environment(env), "agent", port=port, metrics_port=0)
    stop, started = asyncio.Event(), asyncio.Event()
    is_ready = False

    async def ready() -> bool:
        return is_ready

    serving = asyncio.create_task(
        Server(config, []).serve(stop, services=(), ready=ready, started=lambda _port: started.set())
    )
    try:
        async with asyncio.timeout(60):
            await started.wait()
            assert await asked(env, "liveness") == 0
            assert await asked(env) == 1
            is_ready = True
            while await asked(env) != 0:  # Readiness is looked at each second.
                pass
            # Another service's certificate says who it is, and that one is not to ask.
            assert await asked({**env, **variables(files_of(home, "sandbox"), port)}) == 2
    finally:
        stop.set()
        await serving
    assert await asked(env, "liveness") == 1


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], {}) == 2
    said = capsys.readouterr().err
    assert "OLLAMESH_SERVICE is not set" in said
    assert "OLLAMESH_TLS_CERT is not set" in said
    assert main([], {"OLLAMESH_SERVICE": "nobody", "OLLAMESH_INSECURE_INSIDE": "true"}) == 2
    assert main(["x"], {}) == 2
