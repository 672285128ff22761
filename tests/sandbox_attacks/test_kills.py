"""Any part may be killed at any moment: calls end within bounds, the pool heals, and nothing is left.

`make kills-sandbox SEED=7 KILLS=200` draws other moments, and more of them.
"""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc.aio
import pytest

from tests.chaos.knobs import KILLS, SEED
from tests.sandbox_attacks.remains import Remains, back_at, cgroups_of, pids_of, remains, settled
from tests.sandbox_attacks.workload import WHEN_KILLED, Record, drive
from tests.service.sandbox_app import (
    TIMEOUT_S,
    Sandbox,
    Service,
    built_root,
    descendants,
    serving,
)
from tests.service.sandbox_users import AS_ROOT, AS_USER

AT_ONCE = 6
CALLS_PER_KILL = 8


@asynccontextmanager
async def ready(uid: int | None, temporary: Path) -> AsyncIterator[tuple[Service, Sandbox]]:
    os.chmod(temporary, 0o777)  # noqa: PTH101 -- a moment.
    settings = {"OLLAMESH_SANDBOX_WARM_COUNT": "3", "TMPDIR": str(temporary)}
    with serving(built_root(), uid=uid, settings=settings) as service:
        async with service.ready() as client:
            yield service, client


def depths(service: Service) -> dict[str, list[int]]:
    """Pids by what they are: the outer jail, the zygote, the jails' inits, and what runs in these."""
    found: dict[str, list[int]] = {"outer": [], "zygote": [], "init": [], "program": []}
    for pid in descendants(service.process.pid):
        match pids_of(pid):
            case [_]:
                found["outer"].append(pid)
            case [_, _]:
                found["zygote"].append(pid)
            case [_, _, 1]:
                found["init"].append(pid)
            case [_, _, _]:
                found["program"].append(pid)
    return found


async def kill_now_and_then(service: Service, *, kill_count: int, draw: random.Random) -> None:
    """Kill one of each part, and then any, at random moments."""
    parts = ["outer", "zygote", "init", "program"]
    parts += draw.choices(parts, (1, 1, 4, 4), k=max(0, kill_count - len(parts)))
    draw.shuffle(parts)
    for part in parts:
        while True:
            await asyncio.sleep(draw.uniform(0.01, 0.25))
            if victims := depths(service)[part]:
                with suppress(ProcessLookupError):
                    os.kill(draw.choice(victims), signal.SIGKILL)
                    break


async def until_it_runs(client: Sandbox) -> None:
    """Until the pool has healed."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            with suppress(grpc.aio.AioRpcError):
                if (await client.run("print(1)")).stdout == "1\n":
                    return
            await asyncio.sleep(0.05)


@pytest.mark.timeout(120 + 10 * KILLS)
@pytest.mark.parametrize("uid", [AS_ROOT, AS_USER])
async def test_killed_parts_are_replaced(uid: int | None, tmp_path: Path) -> None:
    draw = random.Random(f"{SEED} {uid}")
    async with ready(uid, tmp_path) as (service, client):

        def look() -> Remains:
            return remains(service, tmp_path)

        await drive(client, count=24, at_once=AT_ONCE, seed=SEED)  # What is opened once and kept is no leak.
        base = await settled(look)
        calling = asyncio.create_task(drive(client, count=CALLS_PER_KILL * KILLS, at_once=AT_ONCE, seed=SEED))
        killing = asyncio.create_task(kill_now_and_then(service, kill_count=KILLS, draw=draw))
        record: Record = await calling
        await killing
        assert record.wrong(also=WHEN_KILLED) == {}, (SEED, record)
        await until_it_runs(client)
        assert await back_at(base, look) == base
        assert (await drive(client, count=16, at_once=4, seed=SEED)).wrong() == {}
        assert await back_at(base, look) == base
        assert service.process.poll() is None


@pytest.mark.timeout(120 + 10 * KILLS)
@pytest.mark.parametrize("uid", [AS_ROOT, AS_USER])
async def test_a_killed_service_leaves_nothing(uid: int | None, tmp_path: Path) -> None:
    draw = random.Random(f"{SEED} service {uid}")
    for _ in range(max(1, KILLS // 3)):
        async with ready(uid, tmp_path) as (service, client):
            calling = asyncio.create_task(
                drive(client, count=200, at_once=AT_ONCE, seed=draw.randrange(1 << 30))
            )
            await asyncio.sleep(draw.uniform(0.1, 1.0))
            below = descendants(service.process.pid)
            service.process.kill()
            await asyncio.to_thread(service.process.wait, TIMEOUT_S)
            calling.cancel()
            with suppress(asyncio.CancelledError):
                await calling
            await until_dead(below)
        async with ready(uid, tmp_path) as (next_service, client):  # Sweeps what the dead one could not.
            await until_it_runs(client)
            assert cgroups_of(service.process.pid) == []
            assert remains(next_service, tmp_path).files == 0


async def until_dead(pids: list[int]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while any(pids_of(pid) for pid in pids):
            await asyncio.sleep(0.02)
