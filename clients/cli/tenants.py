"""`ollamesh orgs`, `projects` and `accounts`: tenants, what they consist of, and their service accounts."""

import click
from ollamesh.auth.v1 import auth_service_pb2 as pb

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
from clients.cli.output import print_json, print_table
from clients.cli.settings import Settings

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def orgs() -> None:
    """Manage organisations."""


@orgs.command("create")
@click.argument("display_name", metavar="NAME")
@click.option("--id", "organization_id", default="", help="Made up if not given.")
@click.option("--admin", "username", required=True, metavar="USERNAME", help="Its first admin.")
@click.option("--password-stdin", is_flag=True, help="Read the admin's password from standard input.")
@JSON
@click.pass_obj
def create_organization(
    settings: Settings,
    display_name: str,
    organization_id: str,
    username: str,
    *,
    password_stdin: bool,
    as_json: bool,
) -> None:
    """Make an organisation with a first admin, who makes everything else in it."""
    request = pb.CreateOrganizationRequest(
        display_name=display_name,
        organization_id=organization_id,
        admin_username=username,
        admin_password=new_password(username, from_stdin=password_stdin),
    )

    async def work(auth: Auth) -> pb.CreateOrganizationResponse:
        return await auth.call(auth.stub.CreateOrganization, request)

    made = call(settings, work)
    if as_json:
        print_json({"organization": as_dict(made.organization), "admin": as_dict(made.admin)})
    else:
        click.echo(f"made {made.organization.organization_id}; its admin is {made.admin.username}")


@orgs.command("ls")
@JSON
@click.pass_obj
def list_organizations(settings: Settings, *, as_json: bool) -> None:
    """List all organisations."""

    async def work(auth: Auth) -> list[pb.ListOrganizationsResponse]:
        async def ask(token: str) -> pb.ListOrganizationsResponse:
            request = pb.ListOrganizationsRequest(page_size=PAGE_SIZE, page_token=token)
            return await auth.call(auth.stub.ListOrganizations, request)

        return await auth.pages(ask)

    found = [one for page in call(settings, work) for one in page.organizations]
    if as_json:
        print_json({"organizations": [as_dict(one) for one in found]})
        return
    rows = [(one.organization_id, one.display_name, date(one)) for one in found]
    print_table(("ORGANISATION", "NAME", "CREATED"), rows)


@click.group()
def projects() -> None:
    """Manage the projects of your organisation."""


@projects.command("create")
@click.argument("display_name", metavar="NAME")
@click.option("--id", "project_id", default="", help="Made up if not given.")
@JSON
@click.pass_obj
def create_project(settings: Settings, display_name: str, project_id: str, *, as_json: bool) -> None:
    """Make a project, which has budgets of its own."""
    request = pb.CreateProjectRequest(display_name=display_name, project_id=project_id)

    async def work(auth: Auth) -> pb.CreateProjectResponse:
        return await auth.call(auth.stub.CreateProject, request)

    made = call(settings, work).project
    if as_json:
        print_json(as_dict(made))
    else:
        click.echo(f"made {made.project_id}")


@projects.command("ls")
@JSON
@click.pass_obj
def list_projects(settings: Settings, *, as_json: bool) -> None:
    """List the projects of your organisation."""

    async def work(auth: Auth) -> list[pb.ListProjectsResponse]:
        async def ask(token: str) -> pb.ListProjectsResponse:
            request = pb.ListProjectsRequest(page_size=PAGE_SIZE, page_token=token)
            return await auth.call(auth.stub.ListProjects, request)

        return await auth.pages(ask)

    found = [one for page in call(settings, work) for one in page.projects]
    if as_json:
        print_json({"projects": [as_dict(one) for one in found]})
        return
    print_table(
        ("PROJECT", "NAME", "CREATED"), [(one.project_id, one.display_name, date(one)) for one in found]
    )


@click.group()
def accounts() -> None:
    """Manage service accounts."""


@accounts.command("create")
@click.argument("client_id", metavar="ID")
@click.option("--role", type=click.Choice(list(ROLES)), default="user", show_default=True)
@click.option("--scope", "scopes", multiple=True, help="A service that it may call; all if not given.")
@click.option("--project", "project_id", default="", help="Who pays for what it does; your own if not given.")
@JSON
@click.pass_obj
def create_account(
    settings: Settings,
    client_id: str,
    role: str,
    scopes: tuple[str, ...],
    project_id: str,
    *,
    as_json: bool,
) -> None:
    """Make a service account and print its secret, which is shown this once."""
    request = pb.CreateServiceAccountRequest(
        client_id=client_id, role=ROLES[role], scopes=scopes, project_id=project_id
    )

    async def work(auth: Auth) -> pb.CreateServiceAccountResponse:
        return await auth.call(auth.stub.CreateServiceAccount, request)

    made = call(settings, work)
    if as_json:
        print_json({**as_dict(made.service_account), "client_secret": made.client_secret})
        return
    click.echo(f"made {made.client_id}", err=True)
    click.echo(made.client_secret or "its secret was shown when it was made", err=not made.client_secret)


@accounts.command("ls")
@JSON
@click.pass_obj
def list_accounts(settings: Settings, *, as_json: bool) -> None:
    """List the service accounts of your organisation."""

    async def work(auth: Auth) -> list[pb.ListServiceAccountsResponse]:
        async def ask(token: str) -> pb.ListServiceAccountsResponse:
            request = pb.ListServiceAccountsRequest(page_size=PAGE_SIZE, page_token=token)
            return await auth.call(auth.stub.ListServiceAccounts, request)

        return await auth.pages(ask)

    found = [one for page in call(settings, work) for one in page.service_accounts]
    if as_json:
        print_json({"service_accounts": [as_dict(one) for one in found]})
        return
    rows = [
        (
            one.client_id,
            role_name(one.role),
            " ".join(one.scopes) or "all",
            one.project_id,
            state(one),
            date(one),
        )
        for one in found
    ]
    print_table(("ACCOUNT", "ROLE", "SCOPES", "PROJECT", "STATE", "CREATED"), rows)


@accounts.command("disable")
@click.argument("client_id", metavar="ID")
@JSON
@click.pass_obj
def disable_account(settings: Settings, client_id: str, *, as_json: bool) -> None:
    """End a service account's access for good."""

    async def work(auth: Auth) -> pb.DisableServiceAccountResponse:
        request = pb.DisableServiceAccountRequest(client_id=client_id)
        return await auth.call(auth.stub.DisableServiceAccount, request)

    done = call(settings, work).service_account
    if as_json:
        print_json(as_dict(done))
    else:
        click.echo(f"{done.client_id} is {state(done)}")
