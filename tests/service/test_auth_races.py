"""What is under way while somebody's rights are taken away: it must not end with the rights of before."""

import asyncio
from collections.abc import AsyncIterator

import grpc.aio
import pytest
import pytest_asyncio
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.identity_pb2 import ROLE_ADMIN, ROLE_USER

from services.auth.adapters.argon2_hasher import AT_ONCE_MAX
from tests.service.auth_app import TIMEOUT_S, Auth, config, serving
from tests.service.auth_people import PASSWORD, Person, fresh, logged_in
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOGINS = 3 * AT_ONCE_MAX  # More than are hashed at once: some have been found, and wait.


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def auth(module_database: Database) -> AsyncIterator[Auth]:
    async with serving(config(module_database("auth"))) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def admin(auth: Auth) -> Person:
    return await logged_in(auth)


async def begun_logins(auth: Auth, name: str) -> list[asyncio.Task[Person | None]]:
    """Logins whose user has been found, and whose password waits to be checked."""

    async def login() -> Person | None:
        try:
            return await logged_in(auth, name, PASSWORD)
        except grpc.aio.AioRpcError:
            return None

    tasks = [asyncio.create_task(login()) for _ in range(LOGINS)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=TIMEOUT_S)
    return tasks


async def let_in(tasks: list[asyncio.Task[Person | None]]) -> list[pb.GetCallerResponse]:
    """Who those are that still get in."""
    callers = []
    for person in await asyncio.gather(*tasks):
        if person is not None:
            try:
                callers.append(await person.ask("GetCaller", pb.GetCallerRequest()))
            except grpc.aio.AioRpcError:
                continue
    return callers


async def test_who_is_disabled_while_logging_in_is_out(auth: Auth, admin: Person) -> None:
    name = fresh("raced")
    user = await admin.create_user(name)
    tasks = await begun_logins(auth, name)
    await admin.ask("DisableUser", pb.DisableUserRequest(user_id=user.user_id))
    assert await let_in(tasks) == []


async def test_who_is_lowered_while_logging_in_is_no_admin(auth: Auth, admin: Person) -> None:
    name = fresh("raced")
    user = await admin.create_user(name, role=ROLE_ADMIN)
    tasks = await begun_logins(auth, name)
    await admin.ask("SetRole", pb.SetRoleRequest(user_id=user.user_id, role=ROLE_USER))
    assert ROLE_ADMIN not in [caller.role for caller in await let_in(tasks)]


async def test_the_old_password_is_no_good_for_who_logs_in_while_it_is_changed(
    auth: Auth, admin: Person
) -> None:
    name = fresh("raced")
    user = await admin.create_user(name)
    tasks = await begun_logins(auth, name)
    request = pb.SetPasswordRequest(user_id=user.user_id, new_password="another long enough one")
    await admin.ask("SetPassword", request)
    assert await let_in(tasks) == []
