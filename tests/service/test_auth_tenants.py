"""Organisations, projects and service accounts."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.identity_pb2 import ROLE_ADMIN, ROLE_USER

from tests.service.auth_app import TIMEOUT_S, Auth, config, failure, info, serving
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
)
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def auth(module_database: Database) -> AsyncIterator[Auth]:
    async with serving(config(module_database("auth"))) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def admin(auth: Auth) -> Person:
    return await logged_in(auth)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rival(admin: Person) -> tuple[str, Person]:
    return (await another_organization(admin))[:2]


def organization(name: str, **more: Any) -> pb.CreateOrganizationRequest:
    usual = {"display_name": "Name", "admin_username": f"{name}-admin", "admin_password": PASSWORD}
    return pb.CreateOrganizationRequest(**{**usual, **more})


async def exchanged(auth: Auth, client_id: str, secret: str) -> Person:
    grant = pb.ExchangeTokenRequest.ClientCredentials(client_id=client_id, client_secret=secret)
    answer = await auth.service.ExchangeToken(
        pb.ExchangeTokenRequest(client_credentials=grant), timeout=TIMEOUT_S
    )
    return Person(auth, answer.tokens.access_token)


async def listed(person: Person, method: str, request_type: Any, field: str) -> list[Any]:
    found: list[Any] = []
    token = ""
    while True:
        answer = await person.ask(method, request_type(page_size=2, page_token=token))
        found += getattr(answer, field)
        token = answer.next_page_token
        if not token:
            return found


async def test_an_organization_comes_with_a_project_and_an_admin(auth: Auth, admin: Person) -> None:
    name = fresh("acme")
    made = await admin.ask("CreateOrganization", organization(name, organization_id=name))
    assert (made.organization.organization_id, made.organization.display_name) == (name, "Name")
    assert (made.admin.role, made.admin.organization_id) == (ROLE_ADMIN, name)
    theirs = await logged_in(auth, f"{name}-admin", PASSWORD)
    projects = await listed(theirs, "ListProjects", pb.ListProjectsRequest, "projects")
    assert [(project.project_id, project.organization_id) for project in projects] == [("default", name)]


async def test_a_name_may_be_left_to_us(admin: Person) -> None:
    made = await admin.ask("CreateOrganization", organization(fresh("any")))
    assert made.organization.organization_id.startswith("org-")


async def test_the_same_request_makes_one_organization(admin: Person) -> None:
    request = organization(fresh("acme"), request_id=fresh("request"))
    both = await asyncio.gather(*(admin.ask("CreateOrganization", request) for _ in range(2)))
    assert both[0] == both[1] == await admin.ask("CreateOrganization", request)
    request.display_name = "Another"
    assert await admin.refused("CreateOrganization", request) == (TAKEN, "REQUEST_ID_REUSED")


async def test_only_the_founding_admins_make_and_see_organizations(
    admin: Person, rival: tuple[str, Person]
) -> None:
    request = organization(fresh("acme"))
    assert await rival[1].refused("CreateOrganization", request) == (DENIED, "ROLE_REQUIRED")
    assert await rival[1].refused("ListOrganizations", pb.ListOrganizationsRequest()) == (
        DENIED,
        "ROLE_REQUIRED",
    )
    found = await listed(admin, "ListOrganizations", pb.ListOrganizationsRequest, "organizations")
    names = [one.organization_id for one in found]
    assert {"default", rival[0]} <= set(names)
    assert names == sorted(names)


@pytest.mark.parametrize("taken", ["organization_id", "admin_username"])
async def test_a_name_is_given_once(admin: Person, rival: tuple[str, Person], taken: str) -> None:
    name = {"organization_id": rival[0], "admin_username": "admin"}[taken]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await admin.ask("CreateOrganization", organization(fresh("acme"), **{taken: name}))
    assert failure(refused.value) == (TAKEN, "NAME_TAKEN")
    assert info(refused.value).metadata == {"name": name}


@pytest.mark.parametrize("name", ["a\0b", "a\nb", ""])
async def test_a_name_for_people_is_one_line(admin: Person, name: str) -> None:
    request = organization(fresh("acme"), display_name=name)
    assert await admin.refused("CreateOrganization", request) == (INVALID, "INVALID_REQUEST")


async def test_projects_are_the_organizations_own(admin: Person, rival: tuple[str, Person]) -> None:
    name = fresh("project")
    request = pb.CreateProjectRequest(display_name="One", project_id=name, request_id=fresh("request"))
    both = await asyncio.gather(*(admin.ask("CreateProject", request) for _ in range(2)))
    assert both[0] == both[1]
    again = pb.CreateProjectRequest(display_name="One", project_id=name)
    assert await admin.refused("CreateProject", again) == (TAKEN, "NAME_TAKEN")
    await rival[1].ask("CreateProject", again)  # Theirs is another one.
    ours = await listed(admin, "ListProjects", pb.ListProjectsRequest, "projects")
    assert name in [project.project_id for project in ours]
    assert {project.organization_id for project in ours} == {"default"}


async def test_a_users_token_may_list_projects_and_not_make_them(auth: Auth, admin: Person) -> None:
    user = await admin.create_user(fresh("ann"))
    ann = await logged_in(auth, user.username, PASSWORD)
    await ann.ask("ListProjects", pb.ListProjectsRequest())
    request = pb.CreateProjectRequest(display_name="One")
    assert await ann.refused("CreateProject", request) == (DENIED, "ROLE_REQUIRED")


async def test_a_service_account_gets_tokens_until_it_is_disabled(auth: Auth, admin: Person) -> None:
    client_id = fresh("robot")
    request = pb.CreateServiceAccountRequest(client_id=client_id, role=ROLE_USER, scopes=["auth"])
    made = await admin.ask("CreateServiceAccount", request)
    assert made.service_account.scopes == ["auth"]
    robot = await exchanged(auth, client_id, made.client_secret)
    who = await robot.ask("GetCaller", pb.GetCallerRequest())
    assert (who.user_id, who.role, who.scopes) == (f"service:{client_id}", ROLE_USER, ["auth"])
    accounts = await listed(admin, "ListServiceAccounts", pb.ListServiceAccountsRequest, "service_accounts")
    assert client_id in [account.client_id for account in accounts]
    disable = pb.DisableServiceAccountRequest(client_id=client_id)
    for _ in range(2):
        assert (await admin.ask("DisableServiceAccount", disable)).service_account.disabled
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await exchanged(auth, client_id, made.client_secret)
    assert failure(refused.value) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID")


async def test_an_accounts_secret_is_shown_once(auth: Auth, admin: Person) -> None:
    client_id, request_id = fresh("robot"), fresh("request")
    request = pb.CreateServiceAccountRequest(client_id=client_id, role=ROLE_USER, request_id=request_id)
    both = await asyncio.gather(*(admin.ask("CreateServiceAccount", request) for _ in range(2)))
    secrets = [answer.client_secret for answer in both if answer.client_secret]
    assert len(secrets) == 1
    await exchanged(auth, client_id, secrets[0])
    assert (await admin.ask("CreateServiceAccount", request)).client_secret == ""
    other = pb.CreateServiceAccountRequest(client_id=client_id, role=ROLE_USER)
    assert await admin.refused("CreateServiceAccount", other) == (TAKEN, "NAME_TAKEN")


async def test_the_accounts_of_others_do_not_exist(admin: Person, rival: tuple[str, Person]) -> None:
    client_id = fresh("robot")
    await admin.ask(
        "CreateServiceAccount", pb.CreateServiceAccountRequest(client_id=client_id, role=ROLE_USER)
    )
    request = pb.DisableServiceAccountRequest(client_id=client_id)
    assert await rival[1].refused("DisableServiceAccount", request) == (NOT_FOUND, "NOT_FOUND")
    found = await listed(rival[1], "ListServiceAccounts", pb.ListServiceAccountsRequest, "service_accounts")
    assert found == []
