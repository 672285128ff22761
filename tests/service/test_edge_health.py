"""`/healthz`: each part is taken away and given back, and whoever asks is told within five seconds (R4)."""

import asyncio
import datetime as dt
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from deploy.local.ports import free_ports
from tests.fakes.fake_ollama import FakeOllama
from tests.fakes.severable import Severable
from tests.service import edge_app
from tests.service.auth_app import port_of
from tests.service.edge_app import Stack
from tests.service.inference_app import TINY, serving
from tests.service.test_inference_embed import KEYS
from tests.stack import Database, OwnRedis, own_redis

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timed]
TOLD_WITHIN_S = 5.0  # Of R4, both ways.
START_WITHIN_S = 60.0
PARTS = ("api", "ollama", "database", "cache")


@dataclass(slots=True)
class Mesh:
    """An edge, one gateway, and what the gateway needs, each behind a cable."""

    stack: Stack
    api: Severable
    ollama: Severable
    database: Severable
    cache: OwnRedis
    opened: AsyncExitStack

    async def ask(self) -> tuple[int, dict[str, Any]]:
        async with self.stack.http.get(f"{self.stack.url}/healthz") as answer:
            assert answer.content_type == "application/json"
            assert answer.headers["cache-control"] == "no-store"
            told: dict[str, Any] = await answer.json()
            return answer.status, told

    async def until(self, status: int, word: str, *unhealthy: str, within_s: float = TOLD_WITHIN_S) -> None:
        """Wait until it is told that all but these parts are well."""
        wanted = {part: "unhealthy" if part in unhealthy else "healthy" for part in PARTS}
        began_s = time.monotonic()
        while True:
            found_status, told = await self.ask()
            checks = dict(told["checks"])
            age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(checks.pop("timestamp"))
            assert abs(age) < dt.timedelta(seconds=5)
            assert set(told) == {"status", "checks"}
            if (found_status, told["status"], checks) == (status, word, wanted):
                return
            assert time.monotonic() - began_s < within_s, told
            await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(module_database: Database) -> AsyncIterator[Mesh]:
    async with AsyncExitStack() as opened:
        dsn, cache = module_database("inference"), opened.enter_context(own_redis())
        fake = await opened.enter_async_context(FakeOllama(TINY))
        database = await opened.enter_async_context(Severable.to(port_of(dsn)))
        ollama = await opened.enter_async_context(Severable.to(int(fake.url.rpartition(":")[2])))
        dsn = dsn.replace(f":{port_of(dsn)}/", f":{database.port}/")
        service = await opened.enter_async_context(
            serving(f"http://127.0.0.1:{ollama.port}", DATABASE_URL=dsn, REDIS_URL=cache.url, **KEYS)
        )
        api = await opened.enter_async_context(Severable.to(int(service.target.rpartition(":")[2])))
        (nobody,) = free_ports(1)
        stack = await opened.enter_async_context(
            edge_app.serving(edge_app.settings(nobody, {"inference": (api.port,)}))
        )
        mesh = Mesh(stack, api, ollama, database, cache, opened)
        await mesh.until(200, "healthy", within_s=START_WITHIN_S)
        yield mesh


def hang(mesh: Mesh) -> Callable[[], Awaitable[None]]:
    mesh.cache.signal(signal.SIGSTOP)

    async def go_on() -> None:
        mesh.cache.signal(signal.SIGCONT)

    return go_on


@pytest.mark.parametrize(
    ("part", "status", "word", "lost"),
    [
        ("ollama", 200, "degraded", ("ollama",)),
        ("database", 200, "degraded", ("database",)),
        ("cache", 200, "degraded", ("cache",)),
        ("api", 503, "unhealthy", PARTS),  # Nobody else knows of the others.
    ],
)
async def test_each_part_is_missed_within_five_seconds_and_seen_again(
    running: Mesh, part: str, status: int, word: str, lost: tuple[str, ...]
) -> None:
    await running.until(200, "healthy")
    if part == "cache":
        mend = hang(running)
    else:
        cable: Severable = getattr(running, part)
        await cable.cut()
        mend = cable.mend
    await running.until(status, word, *lost)
    await mend()
    await running.until(200, "healthy")


async def test_nothing_is_told_but_words(running: Mesh) -> None:
    _, told = await running.ask()
    assert set(told["checks"].values()) - {told["checks"]["timestamp"]} <= {
        "healthy",
        "unhealthy",
        "disabled",
    }


async def test_a_killed_redis_is_missed_and_a_new_one_in_its_place_is_seen(running: Mesh) -> None:
    await running.until(200, "healthy")
    running.cache.signal(signal.SIGKILL)
    await running.until(200, "degraded", "cache")
    running.cache = running.opened.enter_context(own_redis(running.cache))
    await running.until(200, "healthy")
