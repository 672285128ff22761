"""`ollamesh users`: who may use the mesh, and what they may."""

import click
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.identity_pb2 import User

from clients.cli.administration import (
    PAGE_SIZE,
    ROLES,
    Auth,
    as_dict,
    call,
    date,
    new_password,
    role_name,
    state,
)
from clients.cli.failures import Failure
from clients.cli.output import print_json, print_table
from clients.cli.settings import Settings

ID_PREFIX = "user:"
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
STDIN = click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")


@click.group()
def users() -> None:
    """Manage the users of your organisation."""


@users.command()
@click.argument("username")
@click.option("--role", type=click.Choice(list(ROLES)), default="user", show_default=True)
@click.option("--project", "project_id", default="", help="Who pays for what they do; your own if not given.")
@STDIN
@JSON
@click.pass_obj
def create(
    settings: Settings,
    username: str,
    role: str,
    project_id: str,
    *,
    password_stdin: bool,
    as_json: bool,
) -> None:
    """Make a user who logs in with a password."""
    request = pb.CreateUserRequest(
        username=username,
        password=new_password(username, from_stdin=password_stdin),
        role=ROLES[role],
        project_id=project_id,
    )

    async def work(auth: Auth) -> User:
        return (await auth.call(auth.stub.CreateUser, request)).user

    _show([call(settings, work)], as_json=as_json)


@users.command()
@JSON
@click.pass_obj
def ls(settings: Settings, *, as_json: bool) -> None:
    """List the users of your organisation."""
    found = call(settings, _all)
    if as_json:
        print_json({"users": [as_dict(user) for user in found]})
    else:
        _table(found)


@users.command()
@click.argument("user", metavar="USER")
@click.argument("role", type=click.Choice(list(ROLES)))
@JSON
@click.pass_obj
def role(settings: Settings, user: str, role: str, *, as_json: bool) -> None:
    """Give USER, a name or an id, another role. They are logged out."""

    async def work(auth: Auth) -> User:
        request = pb.SetRoleRequest(user_id=await _id(auth, user), role=ROLES[role])
        return (await auth.call(auth.stub.SetRole, request)).user

    _show([call(settings, work)], as_json=as_json)


@users.command()
@click.argument("user", metavar="USER")
@click.argument("project_id", metavar="PROJECT")
@JSON
@click.pass_obj
def project(settings: Settings, user: str, project_id: str, *, as_json: bool) -> None:
    """Move USER to another project. They are logged out."""

    async def work(auth: Auth) -> User:
        request = pb.SetProjectRequest(user_id=await _id(auth, user), project_id=project_id)
        return (await auth.call(auth.stub.SetProject, request)).user

    _show([call(settings, work)], as_json=as_json)


@users.command()
@click.argument("user", metavar="[USER]", required=False)
@STDIN
@click.pass_obj
def password(settings: Settings, user: str | None, *, password_stdin: bool) -> None:
    """Set USER's password, or your own. They are logged out.

    Your own needs the old one: with --password-stdin, it is the first line and the new one the second.
    """
    old = ""
    if user is None:
        old = (
            new_password("yourself", from_stdin=True)
            if password_stdin
            else click.prompt("Old password", hide_input=True, err=True)
        )
    new = new_password(user or "yourself", from_stdin=password_stdin)

    async def work(auth: Auth) -> None:
        user_id = "" if user is None else await _id(auth, user)
        request = pb.SetPasswordRequest(user_id=user_id, old_password=old, new_password=new)
        await auth.call(auth.stub.SetPassword, request)

    call(settings, work)
    click.echo("the password is changed")


@users.command()
@click.argument("user", metavar="USER")
@JSON
@click.pass_obj
def disable(settings: Settings, user: str, *, as_json: bool) -> None:
    """End USER's access: tokens, keys and logins."""

    async def work(auth: Auth) -> User:
        request = pb.DisableUserRequest(user_id=await _id(auth, user))
        return (await auth.call(auth.stub.DisableUser, request)).user

    _show([call(settings, work)], as_json=as_json)


@users.command()
@click.argument("user", metavar="USER")
@JSON
@click.pass_obj
def enable(settings: Settings, user: str, *, as_json: bool) -> None:
    """Let a disabled USER log in again."""

    async def work(auth: Auth) -> User:
        request = pb.EnableUserRequest(user_id=await _id(auth, user))
        return (await auth.call(auth.stub.EnableUser, request)).user

    _show([call(settings, work)], as_json=as_json)


async def _all(auth: Auth) -> list[User]:
    async def ask(token: str) -> pb.ListUsersResponse:
        request = pb.ListUsersRequest(page_size=PAGE_SIZE, page_token=token)
        return await auth.call(auth.stub.ListUsers, request)

    return [user for page in await auth.pages(ask) for user in page.users]


async def _id(auth: Auth, user: str) -> str:
    """The id of a user who is named by it, or by name."""
    if user.startswith(ID_PREFIX):
        return user
    found = next((known.user_id for known in await _all(auth) if known.username == user), None)
    if found is None:
        raise Failure(f"the organisation has no user {user}")
    return found


def _show(found: list[User], *, as_json: bool) -> None:
    if as_json:
        for user in found:
            print_json(as_dict(user))
    else:
        _table(found)


def _table(found: list[User]) -> None:
    titles = ("USER", "ROLE", "PROJECT", "STATE", "CREATED", "ID")
    rows = [
        (
            one.display_name or one.username,
            role_name(one.role),
            one.project_id,
            state(one),
            date(one),
            one.user_id,
        )
        for one in found
    ]
    print_table(titles, rows)
