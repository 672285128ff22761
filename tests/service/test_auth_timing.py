"""What the time of an answer tells: nothing of other tenants' objects, nothing of why a login was refused (A10, A12).

In turns drawn for each round, so that whatever else the machine does hits all alike. A test at p > 0.01 fails once in
a hundred runs by chance, so it is repeated up to twice; what leaks would fail every time. The control shows that a
difference would be seen.
"""

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
import pytest_asyncio
from ollamesh.auth.v1 import auth_service_pb2 as pb

from tests.service.auth_app import Auth, config, serving
from tests.service.auth_people import Person, another_organization, fresh, logged_in
from tests.service.rank_sums import p_value
from tests.stack import Database

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

TRIES = 3
P_MIN = 0.01

Ask = Callable[[], Awaitable[None]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def auth(module_database: Database) -> AsyncIterator[Auth]:
    async with serving(config(module_database("auth"))) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def admin(auth: Auth) -> Person:
    return await logged_in(auth)


async def measured(asks: Sequence[Ask], *, rounds: int, seed: int) -> list[list[float]]:
    """How long each took in each round."""
    chance = random.Random(seed)
    times_s: list[list[float]] = [[] for _ in asks]
    for _ in range(rounds):
        for which in chance.sample(range(len(asks)), len(asks)):
            began_s = time.perf_counter()
            await asks[which]()
            times_s[which].append(time.perf_counter() - began_s)
    return times_s


async def alike(asks: Sequence[Ask], *, rounds: int) -> list[list[float]]:
    """Times that cannot be told apart, in one of a few tries; fails if there are none."""
    found: list[float] = []
    for seed in range(TRIES):
        times_s = await measured(asks, rounds=rounds, seed=seed)
        found.append(min(p_value(times_s[0], other) for other in times_s[1:]))
        if found[-1] > P_MIN:
            return times_s
    raise AssertionError(f"the times differ: p = {found}")


def refused(person: Person, method: str, request: object) -> Ask:
    async def ask() -> None:
        await person.refused(method, request)

    return ask


@pytest.mark.parametrize("method", ["DisableUser", "SetRole"])
async def test_another_tenants_user_takes_as_long_as_none(admin: Person, method: str) -> None:
    _, _, theirs = await another_organization(admin)
    more = {"role": theirs.role} if method == "SetRole" else {}
    request_type = getattr(pb, f"{method}Request")
    nobody = f"user:{'0' * 32}"
    asks = [
        refused(admin, method, request_type(user_id=user_id, **more)) for user_id in (theirs.user_id, nobody)
    ]
    await alike(asks, rounds=200)


async def test_the_control_sees_a_difference(admin: Person) -> None:
    """Of one's own user, there is more to do."""
    user = await admin.create_user(fresh("ann"))

    async def own() -> None:
        await admin.ask("DisableUser", pb.DisableUserRequest(user_id=user.user_id))

    nobody = refused(admin, "DisableUser", pb.DisableUserRequest(user_id="user:nobody"))
    times_s = await measured([own, nobody], rounds=60, seed=0)
    assert p_value(*times_s) < P_MIN
