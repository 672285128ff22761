"""R2: every replica of every service is restarted, one after the other, and Envoy is replaced, while all is used.

Nobody is to notice: no unary call and no stream fails. The callers retry nothing. What is restarted comes in an order
that OLLAMESH_CHAOS_SEED draws; `make chaos` asks for the requirement's 5,000 calls and 30 streams, the suite for fewer.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from tests.chaos.knobs import ROLLING_CALLS, SEED
from tests.chaos.rolling import Mesh, rolling
from tests.chaos.rolling_load import under_load
from tests.stack import Database

CALLERS, READERS = 6, 4
IS_FULL_LENGTH = ROLLING_CALLS >= 5000


def steps(mesh: Mesh, chance: random.Random) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
    """All restarts: those of a service one after the other, the services and the edge in an order that is drawn.

    In the suite, one replica of two services that are drawn.
    """
    names = [*(mesh.members if IS_FULL_LENGTH else chance.sample(list(mesh.members), 2)), "edge"]
    chance.shuffle(names)
    found: list[tuple[str, Callable[[], Awaitable[None]]]] = []
    for name in names:
        if name == "edge":
            found.append((name, mesh.stack.replace))
        else:
            members = mesh.members[name] if IS_FULL_LENGTH else [chance.choice(mesh.members[name])]
            found.extend((f"{name} at {member.port}", member.restart) for member in members)
    return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [SEED])
async def test_a_rolling_restart_of_everything_fails_nothing(database: Database, seed: int) -> None:
    async with (
        rolling(database) as mesh,
        under_load(mesh, seed=seed, callers=CALLERS, readers=READERS) as load,
    ):
        seen = load.seen
        for name, step in steps(mesh, random.Random(seed)):
            await step()
            print(name, seen.call_count, seen.stream_count, len(seen.failures))  # noqa: T201
        while not seen.is_enough:
            await asyncio.sleep(0.1)
    print(f"{seen.call_count} calls, {seen.stream_count} streams, {len(seen.failures)} failed")  # noqa: T201
    assert seen.failures == [], (seed, seen.failures[:5])
