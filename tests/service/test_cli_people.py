"""`ollamesh users`, `orgs`, `projects` and `accounts`: what is asked for, what is shown, and the exit code."""

import json
from typing import Any

import pytest
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.identity_pb2 import ROLE_ADMIN, ROLE_USER, Organization, Project, ServiceAccount, User

from services.common.errors import RoleRequired
from tests.fakes.command_line import Cli, answering, cli, home, mesh
from tests.fakes.scripted_mesh import ScriptedMesh, Unary

__all__ = ["cli", "home", "mesh"]

ANN = User(user_id="user:1", username="ann", role=ROLE_USER, organization_id="default", project_id="p")
BOB = User(user_id="user:2", username="bob", role=ROLE_ADMIN, organization_id="default", disabled=True)
ROBOT = ServiceAccount(client_id="robot", role=ROLE_USER, scopes=["agent"])


def remembering(received: list[Any], response: object) -> Unary:
    async def answer(request: Any, context: object) -> Any:
        received.append(request)
        return response

    return answer


@pytest.fixture
def users(mesh: ScriptedMesh) -> None:
    """Two, on a page each."""

    async def page(request: pb.ListUsersRequest, context: object) -> pb.ListUsersResponse:
        if not request.page_token:
            return pb.ListUsersResponse(users=[ANN], next_page_token="more")
        return pb.ListUsersResponse(users=[BOB])

    mesh.unary["ListUsers"] = page


@pytest.mark.usefixtures("users")
def test_users_are_listed_to_the_last_page(cli: Cli) -> None:
    shown = cli("users", "ls").stdout.splitlines()
    assert [line.split()[0] for line in shown] == ["USER", "ann", "bob"]
    assert "disabled" in shown[2]
    told = json.loads(cli("users", "ls", "--json").stdout)["users"]
    assert [(one["user_id"], one["role"], one["disabled"]) for one in told] == [
        ("user:1", "user", False),
        ("user:2", "admin", True),
    ]


def test_a_user_is_made_with_a_password_from_standard_input(cli: Cli, mesh: ScriptedMesh) -> None:
    received: list[Any] = []
    mesh.unary["CreateUser"] = remembering(received, pb.CreateUserResponse(user=ANN))
    made = cli(
        "users", "create", "ann", "--password-stdin", "--project", "p", "--json", stdin="a long enough one\n"
    )
    assert json.loads(made.stdout)["user_id"] == "user:1"
    assert received == [
        pb.CreateUserRequest(username="ann", password="a long enough one", role=ROLE_USER, project_id="p")
    ]


@pytest.mark.usefixtures("users")
@pytest.mark.parametrize(
    ("words", "method", "asked", "response"),
    [
        (
            ["role", "bob", "user"],
            "SetRole",
            pb.SetRoleRequest(user_id="user:2", role=ROLE_USER),
            pb.SetRoleResponse(user=BOB),
        ),
        (
            ["project", "user:9", "p"],
            "SetProject",
            pb.SetProjectRequest(user_id="user:9", project_id="p"),
            pb.SetProjectResponse(user=ANN),
        ),
        (
            ["disable", "ann"],
            "DisableUser",
            pb.DisableUserRequest(user_id="user:1"),
            pb.DisableUserResponse(user=ANN),
        ),
        (
            ["enable", "ann"],
            "EnableUser",
            pb.EnableUserRequest(user_id="user:1"),
            pb.EnableUserResponse(user=ANN),
        ),
    ],
)
def test_a_user_is_named_by_name_or_id(
    cli: Cli, mesh: ScriptedMesh, words: list[str], method: str, asked: object, response: object
) -> None:
    received: list[Any] = []
    mesh.unary[method] = remembering(received, response)
    assert cli("users", *words).exit_code == 0
    assert received == [asked]


@pytest.mark.usefixtures("users")
def test_a_name_that_nobody_has_is_said(cli: Cli) -> None:
    done = cli("users", "disable", "nobody")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "no user nobody" in done.stderr


@pytest.mark.usefixtures("users")
@pytest.mark.parametrize(
    ("words", "stdin", "asked"),
    [
        (
            [],
            "old\na new long one\n",
            pb.SetPasswordRequest(old_password="old", new_password="a new long one"),
        ),
        (["ann"], "a new long one\n", pb.SetPasswordRequest(user_id="user:1", new_password="a new long one")),
    ],
    ids=["own", "another's"],
)
def test_a_password_is_set(cli: Cli, mesh: ScriptedMesh, words: list[str], stdin: str, asked: object) -> None:
    received: list[Any] = []
    mesh.unary["SetPassword"] = remembering(received, pb.SetPasswordResponse())
    assert cli("users", "password", *words, "--password-stdin", stdin=stdin).exit_code == 0
    assert received == [asked]


def test_an_organization_is_made_and_listed(cli: Cli, mesh: ScriptedMesh) -> None:
    received: list[Any] = []
    acme = Organization(organization_id="acme", display_name="Acme")
    mesh.unary["CreateOrganization"] = remembering(
        received, pb.CreateOrganizationResponse(organization=acme, admin=BOB)
    )
    mesh.unary["ListOrganizations"] = answering(pb.ListOrganizationsResponse(organizations=[acme]))
    made = cli(
        "orgs",
        "create",
        "Acme",
        "--id",
        "acme",
        "--admin",
        "bob",
        "--password-stdin",
        stdin="a long secret\n",
    )
    assert made.stdout == "made acme; its admin is bob\n"
    (request,) = received
    assert (request.organization_id, request.admin_username, request.admin_password) == (
        "acme",
        "bob",
        "a long secret",
    )
    assert json.loads(cli("orgs", "ls", "--json").stdout)["organizations"][0]["organization_id"] == "acme"
    assert "acme" in cli("orgs", "ls").stdout


def test_projects_are_made_and_listed(cli: Cli, mesh: ScriptedMesh) -> None:
    project = Project(project_id="p", organization_id="default", display_name="P")
    mesh.unary["CreateProject"] = answering(pb.CreateProjectResponse(project=project))
    mesh.unary["ListProjects"] = answering(pb.ListProjectsResponse(projects=[project]))
    assert cli("projects", "create", "P").stdout == "made p\n"
    assert json.loads(cli("projects", "create", "P", "--json").stdout)["project_id"] == "p"
    assert json.loads(cli("projects", "ls", "--json").stdout)["projects"][0]["display_name"] == "P"


def test_an_accounts_secret_is_all_that_is_printed(cli: Cli, mesh: ScriptedMesh) -> None:
    mesh.unary["CreateServiceAccount"] = answering(
        pb.CreateServiceAccountResponse(client_id="robot", client_secret="s3", service_account=ROBOT)
    )
    mesh.unary["ListServiceAccounts"] = answering(pb.ListServiceAccountsResponse(service_accounts=[ROBOT]))
    mesh.unary["DisableServiceAccount"] = answering(
        pb.DisableServiceAccountResponse(service_account=ServiceAccount(client_id="robot", disabled=True))
    )
    assert cli("accounts", "create", "robot", "--scope", "agent").stdout == "s3\n"
    assert json.loads(cli("accounts", "create", "robot", "--json").stdout)["client_secret"] == "s3"
    assert "agent" in cli("accounts", "ls").stdout
    assert cli("accounts", "disable", "robot").stdout == "robot is disabled\n"


def test_who_may_not_is_told_by_the_exit_code(cli: Cli, mesh: ScriptedMesh) -> None:
    mesh.unary["ListUsers"] = answering(RoleRequired(role="admin"))
    assert cli("users", "ls").exit_code == 4
