"""The keeper of Envoy: it replaces it without a gap, refuses what is wrong, and ends with it."""

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil
import pytest
import pytest_asyncio

from deploy.local.ports import free_ports
from tests.service import edge_app
from tests.service.auth_app import TIMEOUT_S
from tests.service.edge_app import REPLACED_WITHIN_S, Stack

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True, slots=True)
class Kept:
    stack: Stack
    heap: Path  # What a setting is read from, so that it can be wrong.

    def envoys(self) -> list[psutil.Process]:
        return psutil.Process(self.stack.process.pid).children()


@pytest_asyncio.fixture(loop_scope="module")
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    heap = tmp_path / "heap"
    heap.write_text("256")
    (nobody,) = free_ports(1)
    env = edge_app.settings(nobody, {}, OLLAMESH_EDGE_HEAP_MIB_FILE=str(heap), OLLAMESH_EDGE_DRAIN_S="2")
    async with edge_app.serving(env, kept=True) as stack:
        yield Kept(stack, heap)


async def test_envoy_is_replaced_and_nobody_notices(kept: Kept) -> None:
    (old,) = kept.envoys()
    stop = asyncio.Event()

    async def keep_asking(*, anew: bool) -> int:
        count = 0
        connector = aiohttp.TCPConnector(force_close=anew)
        async with aiohttp.ClientSession(connector=connector) as http:
            while not stop.is_set():
                async with http.get(kept.stack.url) as answer:
                    assert await answer.text() == "Ollama is running"
                count += 1
        return count

    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(keep_asking(anew=anew)) for anew in (True, True, False)]
        await kept.stack.replace()
        stop.set()
    assert min(task.result() for task in asking) > 10
    (new,) = kept.envoys()
    assert new != old


async def test_what_is_wrong_is_refused_and_all_stays(kept: Kept) -> None:
    before, count = kept.envoys(), kept.stack.keeper()["reload_count"]
    kept.heap.write_text("nonsense")
    try:
        kept.stack.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(REPLACED_WITHIN_S):
            while kept.stack.keeper()["reload_count"] == count:
                await asyncio.sleep(0.05)
        assert kept.stack.keeper()["error"] == "envoy: OLLAMESH_EDGE_HEAP_MIB is not a whole number"
        async with kept.stack.http.get(kept.stack.url) as answer:
            assert answer.status == 200
        assert kept.envoys() == before
    finally:
        kept.heap.write_text("256")
    await kept.stack.replace()


async def test_it_ends_with_the_envoy_that_serves(kept: Kept) -> None:
    """Whoever supervises the keeper starts both anew."""
    (envoy,) = kept.envoys()
    shared = shared_memory(kept.stack)
    assert shared.exists()
    envoy.kill()
    async with asyncio.timeout(TIMEOUT_S):
        assert await kept.stack.process.wait() != 0
    assert not shared.exists()


def shared_memory(stack: Stack) -> Path:
    """What an Envoy and the one that replaces it share, which no Envoy removes."""
    base_id = int((stack.log.parent / "envoy.base").read_text())
    return Path(f"/dev/shm/envoy_shared_memory_{10 * base_id}")
