"""Administration of users: what an admin can do, and what nobody can."""

import asyncio
from collections.abc import AsyncIterator

import grpc.aio
import pytest
import pytest_asyncio
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.identity_pb2 import ROLE_ADMIN, ROLE_USER

from tests.service.auth_app import ADMIN_PASSWORD, Auth, config, failure, info, serving
from tests.service.auth_people import (
    DENIED,
    INVALID,
    NOT_FOUND,
    PASSWORD,
    TAKEN,
    Person,
    another_organization,
    fresh,
    logged_in,
    login_refused,
)
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")

REFUSED = (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID")
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def auth(module_database: Database) -> AsyncIterator[Auth]:
    async with serving(config(module_database("auth"))) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def admin(auth: Auth) -> Person:
    return await logged_in(auth)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rival(admin: Person) -> tuple[str, Person, pb.CreateUserResponse]:
    """Another organisation: its id, its admin as a caller and as a user."""
    name, caller, user = await another_organization(admin)
    return name, caller, pb.CreateUserResponse(user=user)


async def test_a_user_who_was_made_can_log_in_and_do_no_more_than_their_role(
    auth: Auth, admin: Person
) -> None:
    name = fresh("ann")
    made = await admin.create_user(name)
    assert (made.username, made.role, made.organization_id) == (name, ROLE_USER, "default")
    assert made.project_id == "default"
    assert not made.disabled
    assert made.create_time.ToSeconds() > 0
    ann = await logged_in(auth, name, PASSWORD)
    assert await ann.refused("ListUsers", pb.ListUsersRequest()) == (DENIED, "ROLE_REQUIRED")
    assert await ann.refused("CreateUser", pb.CreateUserRequest(username="x")) == (DENIED, "ROLE_REQUIRED")


async def test_the_same_request_makes_one_user(admin: Person) -> None:
    name, request_id = fresh("ann"), fresh("request")
    both = await asyncio.gather(*(admin.create_user(name, request_id=request_id) for _ in range(2)))
    again = await admin.create_user(name, request_id=request_id)
    assert both[0] == both[1] == again


@pytest.mark.parametrize("changed", [{"password": "another long one"}, {"role": ROLE_ADMIN}])
async def test_the_same_request_id_with_another_body_is_refused(
    admin: Person, changed: dict[str, str]
) -> None:
    name, request_id = fresh("ann"), fresh("request")
    await admin.create_user(name, request_id=request_id)
    body = {"username": name, "password": PASSWORD, "role": ROLE_USER, "request_id": request_id, **changed}
    assert await admin.refused("CreateUser", pb.CreateUserRequest(**body)) == (TAKEN, "REQUEST_ID_REUSED")  # type: ignore[arg-type]


async def test_a_request_id_is_its_callers_own(admin: Person, rival: tuple[str, Person, object]) -> None:
    request_id = fresh("request")
    one = await admin.create_user(fresh("ann"), request_id=request_id)
    other = await rival[1].create_user(fresh("ann"), request_id=request_id)
    assert one.user_id != other.user_id
    assert other.organization_id == rival[0]


async def test_a_name_is_given_once(admin: Person) -> None:
    request = pb.CreateUserRequest(username="admin", password=PASSWORD, role=ROLE_USER)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await admin.ask("CreateUser", request)
    assert failure(refused.value) == (TAKEN, "NAME_TAKEN")
    assert info(refused.value).metadata == {"name": "admin"}


@pytest.mark.parametrize(
    "password",
    [
        "too short",
        "Password1234!",
        "qwertyuiop12",
        "123456789012",
        "ababababababab",
        "e\u0301te\u0301 a\u0300 wag",
    ],
)
async def test_a_weak_password_is_refused_by_the_field(admin: Person, password: str) -> None:
    request = pb.CreateUserRequest(username=fresh("ann"), password=password, role=ROLE_USER)
    assert await admin.refused("CreateUser", request) == (INVALID, "INVALID_REQUEST")


async def test_a_project_of_nobody_or_of_others_is_not_found(
    admin: Person, rival: tuple[str, Person, object]
) -> None:
    theirs = (await rival[1].ask("CreateProject", pb.CreateProjectRequest(display_name="p"))).project
    for project_id in ("nowhere", theirs.project_id):
        request = pb.CreateUserRequest(
            username=fresh("ann"), password=PASSWORD, role=ROLE_USER, project_id=project_id
        )
        assert await admin.refused("CreateUser", request) == (NOT_FOUND, "NOT_FOUND")


async def test_users_are_listed_by_name_in_pages_without_those_of_others(
    admin: Person, rival: tuple[str, Person, object]
) -> None:
    names = sorted([await _named(rival[1]) for _ in range(3)] + [f"{rival[0]}-admin"])
    before = await _all_users(rival[1], page_size=2)
    assert [name for name in before if name in names] == names
    assert before == sorted(before)
    assert not set(before) & set(await _all_users(admin, page_size=100))


async def _named(person: Person) -> str:
    return (await person.create_user(fresh("listed"))).username


async def _all_users(person: Person, *, page_size: int) -> list[str]:
    names: list[str] = []
    token = ""
    while True:
        answer = await person.ask("ListUsers", pb.ListUsersRequest(page_size=page_size, page_token=token))
        names += [user.username for user in answer.users]
        token = answer.next_page_token
        if not token:
            return names


@pytest.mark.parametrize("token", ["*", "AA", "AA==", "/w=="])
async def test_a_page_token_of_somebody_else_is_refused(admin: Person, token: str) -> None:
    request = pb.ListUsersRequest(page_token=token)
    assert await admin.refused("ListUsers", request) == (INVALID, "INVALID_REQUEST")


async def test_a_role_can_be_given_and_taken(auth: Auth, admin: Person) -> None:
    user = await admin.create_user(fresh("ann"))
    raised = await admin.ask("SetRole", pb.SetRoleRequest(user_id=user.user_id, role=ROLE_ADMIN))
    assert raised.user.role == ROLE_ADMIN
    ann = await logged_in(auth, user.username, PASSWORD)
    await ann.ask("ListUsers", pb.ListUsersRequest())
    lowered = await admin.ask("SetRole", pb.SetRoleRequest(user_id=user.user_id, role=ROLE_USER))
    assert lowered.user.role == ROLE_USER


async def test_the_last_admin_stays_one(admin: Person, rival: tuple[str, Person, object]) -> None:
    _, caller, user = await another_organization(admin)
    lower = pb.SetRoleRequest(user_id=user.user_id, role=ROLE_USER)
    disable = pb.DisableUserRequest(user_id=user.user_id)
    assert await caller.refused("SetRole", lower) == (PRECONDITION, "LAST_ADMIN")
    assert await caller.refused("DisableUser", disable) == (PRECONDITION, "LAST_ADMIN")
    second = await caller.create_user(fresh("second"), role=ROLE_ADMIN)
    await caller.ask("DisableUser", pb.DisableUserRequest(user_id=second.user_id))
    assert await caller.refused("SetRole", lower) == (PRECONDITION, "LAST_ADMIN")
    await caller.ask("EnableUser", pb.EnableUserRequest(user_id=second.user_id))
    await caller.ask("SetRole", lower)


async def test_two_admins_cannot_lower_each_other_at_once(admin: Person) -> None:
    for _ in range(5):
        _, caller, user = await another_organization(admin)
        second = await caller.create_user(fresh("second"), role=ROLE_ADMIN)
        requests = [pb.SetRoleRequest(user_id=one.user_id, role=ROLE_USER) for one in (user, second)]
        results = await asyncio.gather(
            *(caller.ask("SetRole", request) for request in requests), return_exceptions=True
        )
        assert sum(isinstance(result, grpc.aio.AioRpcError) for result in results) == 1


async def test_a_disabled_user_is_out_and_can_come_back(auth: Auth, admin: Person) -> None:
    user = await admin.create_user(fresh("ann"))
    disable = pb.DisableUserRequest(user_id=user.user_id)
    for _ in range(2):
        assert (await admin.ask("DisableUser", disable)).user.disabled
    assert await login_refused(auth, user.username, PASSWORD) == REFUSED
    assert not (await admin.ask("EnableUser", pb.EnableUserRequest(user_id=user.user_id))).user.disabled
    await logged_in(auth, user.username, PASSWORD)


async def test_a_user_moves_to_another_project(auth: Auth, admin: Person) -> None:
    project = (await admin.ask("CreateProject", pb.CreateProjectRequest(display_name="Other"))).project
    user = await admin.create_user(fresh("ann"))
    request = pb.SetProjectRequest(user_id=user.user_id, project_id=project.project_id)
    assert (await admin.ask("SetProject", request)).user.project_id == project.project_id
    ann = await logged_in(auth, user.username, PASSWORD)
    caller = await ann.ask("GetCaller", pb.GetCallerRequest())
    assert caller.project_id == project.project_id
    request = pb.SetProjectRequest(user_id=user.user_id, project_id="nowhere")
    assert await admin.refused("SetProject", request) == (NOT_FOUND, "NOT_FOUND")


async def test_a_password_is_changed_by_who_knows_it(auth: Auth, admin: Person) -> None:
    user = await admin.create_user(fresh("ann"))
    ann = await logged_in(auth, user.username, PASSWORD)
    new = "an even longer one"
    wrong = pb.SetPasswordRequest(old_password="wrong", new_password=new)
    assert await ann.refused("SetPassword", wrong) == REFUSED
    assert await ann.refused("SetPassword", pb.SetPasswordRequest(new_password=new)) == REFUSED
    weak = pb.SetPasswordRequest(old_password=PASSWORD, new_password="passwordpassword")
    assert await ann.refused("SetPassword", weak) == (INVALID, "INVALID_REQUEST")
    await ann.ask("SetPassword", pb.SetPasswordRequest(old_password=PASSWORD, new_password=new))
    assert await login_refused(auth, user.username, PASSWORD) == REFUSED
    await logged_in(auth, user.username, new)


async def test_an_admin_sets_anothers_password_and_nobody_else_does(auth: Auth, admin: Person) -> None:
    user, other = await admin.create_user(fresh("ann")), await admin.create_user(fresh("bob"))
    bob = await logged_in(auth, other.username, PASSWORD)
    request = pb.SetPasswordRequest(user_id=user.user_id, new_password="chosen by another")
    assert await bob.refused("SetPassword", request) == (DENIED, "ROLE_REQUIRED")
    await admin.ask("SetPassword", request)
    await logged_in(auth, user.username, "chosen by another")
    own = pb.SetPasswordRequest(user_id="user:admin", new_password="chosen by another")
    assert await admin.refused("SetPassword", own) == REFUSED, "one's own needs the old one"


async def test_how_a_keyboard_composes_letters_does_not_matter(auth: Auth, admin: Person) -> None:
    name = fresh("ann")
    await admin.create_user(name, password="pâté de campagne".encode().decode())
    await logged_in(auth, name, "pa\u0302te\u0301 de campagne")


@pytest.mark.parametrize(
    ("method", "request_type", "more"),
    [
        ("SetRole", pb.SetRoleRequest, {"role": ROLE_ADMIN}),
        ("SetProject", pb.SetProjectRequest, {"project_id": "default"}),
        ("SetPassword", pb.SetPasswordRequest, {"new_password": PASSWORD}),
        ("DisableUser", pb.DisableUserRequest, {}),
        ("EnableUser", pb.EnableUserRequest, {}),
    ],
)
async def test_the_users_of_others_do_not_exist(
    auth: Auth,
    admin: Person,
    rival: tuple[str, Person, pb.CreateUserResponse],
    method: str,
    request_type: type,
    more: dict[str, object],
) -> None:
    told = set()
    for user_id in (rival[2].user.user_id, "user:nobody", "nobody"):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await admin.ask(method, request_type(user_id=user_id, **more))
        assert failure(refused.value) == (NOT_FOUND, "NOT_FOUND")
        told.add((refused.value.details(), str(refused.value.trailing_metadata())))
    assert len(told) == 1
    await logged_in(auth, rival[2].user.username, PASSWORD)
    assert await login_refused(auth, rival[2].user.username, ADMIN_PASSWORD) == REFUSED


@pytest.mark.parametrize("user_id", ["", "user:\0", "user:' OR 1=1", "x" * 65])
async def test_what_is_no_id_is_told_so(admin: Person, user_id: str) -> None:
    request = pb.DisableUserRequest(user_id=user_id)
    assert await admin.refused("DisableUser", request) == (INVALID, "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("method", "request_type", "more"),
    [
        ("SetRole", pb.SetRoleRequest, {"role": ROLE_ADMIN}),
        ("SetProject", pb.SetProjectRequest, {"project_id": "default"}),
        ("SetPassword", pb.SetPasswordRequest, {"new_password": PASSWORD}),
        ("DisableUser", pb.DisableUserRequest, {}),
    ],
)
async def test_what_changes_rights_ends_the_tokens_that_were_given_before(
    auth: Auth, admin: Person, method: str, request_type: type, more: dict[str, object]
) -> None:
    user = await admin.create_user(fresh("ann"))
    ann = await logged_in(auth, user.username, PASSWORD)
    await admin.ask(method, request_type(user_id=user.user_id, **more))
    refused = await ann.refused("GetCaller", pb.GetCallerRequest())
    assert refused[0] is grpc.StatusCode.UNAUTHENTICATED
    if method != "DisableUser":
        again = await logged_in(auth, user.username, PASSWORD)
        await again.ask("GetCaller", pb.GetCallerRequest())
