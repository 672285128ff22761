"""Organisations, projects and service accounts in PostgreSQL. Whose they are is asked in SQL, never afterwards."""

import asyncpg

from services.auth.adapters import postgres_people
from services.auth.adapters.postgres_people import named, next_after, person
from services.auth.adapters.postgres_requests import claim, remembered
from services.auth.core.identity import Role
from services.auth.core.people import FIRST_PROJECT, Actor, Asked
from services.auth.errors import NameTaken, NotFound
from services.auth.people_ports import (
    Account,
    NewAccount,
    NewPerson,
    Organization,
    Page,
    PageRequest,
    Person,
    Project,
)
from services.common.postgres import Connection, Database

_ORGANIZATION = "SELECT organization_id, display_name, create_time FROM organizations"
FIND_ORGANIZATION = f"{_ORGANIZATION} WHERE organization_id = $1"
ORGANIZATIONS = f"{_ORGANIZATION} WHERE organization_id > $1 ORDER BY organization_id LIMIT $2"
_INSERT_ORGANIZATION = "INSERT INTO organizations (organization_id, display_name) VALUES ($1, $2)"
_FIRST_ADMIN = """
    SELECT user_id, username, role, organization_id, project_id, disable_time, create_time, display_name,
        coalesce(issuer, '') AS issuer
    FROM users WHERE organization_id = $1 ORDER BY create_time, user_id LIMIT 1
"""
_PROJECT = """
    SELECT organization_id, project_id, display_name, create_time FROM projects WHERE organization_id = $1
"""
FIND_PROJECT = f"{_PROJECT} AND project_id = $2"
PROJECTS = f"{_PROJECT} AND project_id > $2 ORDER BY project_id LIMIT $3"
_INSERT_PROJECT = "INSERT INTO projects (organization_id, project_id, display_name) VALUES ($1, $2, $3)"
_ACCOUNT = """
    SELECT client_id, role, organization_id, project_id, scopes, disable_time, create_time
    FROM service_accounts WHERE organization_id = $1
"""
FIND_ACCOUNT = f"{_ACCOUNT} AND client_id = $2"
ACCOUNTS = f"{_ACCOUNT} AND client_id > $2 ORDER BY client_id LIMIT $3"
_INSERT_ACCOUNT = """
    INSERT INTO service_accounts (organization_id, client_id, project_id, secret_digest, role, scopes)
    VALUES ($1, $2, $3, $4, $5, $6)
"""
# Of any organisation, also if it is disabled: tokens name the client, and not whose it is.
_IS_CLIENT = "SELECT EXISTS (SELECT FROM oauth_clients WHERE client_id = $1)"
_DISABLE_ACCOUNT = """
    UPDATE service_accounts SET disable_time = coalesce(disable_time, now())
    WHERE organization_id = $1 AND client_id = $2
"""


class PostgresTenants:
    """Implements people_ports.TenantStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def remembered(self, actor: Actor, asked: Asked) -> str | None:
        async with self._database.connection(organization_id=actor.organization_id) as connection:
            return await remembered(connection, actor, asked)

    async def create_organization(
        self, actor: Actor, new: Organization, admin: NewPerson, asked: Asked | None
    ) -> tuple[Organization, Person]:
        made = new.organization_id
        with named(made, username=admin.username):
            async with self._database.transaction(system=True) as connection:
                known = await claim(connection, actor, asked, made)
                if known is None:
                    await connection.execute(_INSERT_ORGANIZATION, made, new.display_name)
                    await connection.execute(_INSERT_PROJECT, made, FIRST_PROJECT, FIRST_PROJECT)
                    await postgres_people.insert(connection, made, admin)
                found = await _organization(connection, known or made)
        if found is None:
            raise NotFound(kind="organization")
        return found

    async def organization(self, organization_id: str) -> tuple[Organization, Person] | None:
        async with self._database.connection(organization_id=organization_id) as connection:
            return await _organization(connection, organization_id)

    async def organizations(self, request: PageRequest) -> Page[Organization]:
        async with self._database.connection(system=True) as connection:
            rows = await connection.fetch(ORGANIZATIONS, request.after, request.size + 1)
        found = [Organization(**row) for row in rows[: request.size]]
        return Page(found, next_after(rows, request, "organization_id"))

    async def create_project(self, actor: Actor, new: Project, asked: Asked | None) -> Project:
        organization_id = actor.organization_id
        with named(new.project_id):
            async with self._database.transaction(organization_id=organization_id) as connection:
                known = await claim(connection, actor, asked, new.project_id)
                if known is None:
                    await connection.execute(
                        _INSERT_PROJECT, organization_id, new.project_id, new.display_name
                    )
                row = await connection.fetchrow(FIND_PROJECT, organization_id, known or new.project_id)
        if row is None:
            raise NotFound(kind="project")
        return Project(**row)

    async def project(self, organization_id: str, project_id: str) -> Project | None:
        async with self._database.connection(organization_id=organization_id) as connection:
            row = await connection.fetchrow(FIND_PROJECT, organization_id, project_id)
        return None if row is None else Project(**row)

    async def projects(self, organization_id: str, request: PageRequest) -> Page[Project]:
        async with self._database.connection(organization_id=organization_id) as connection:
            rows = await connection.fetch(PROJECTS, organization_id, request.after, request.size + 1)
        return Page([Project(**row) for row in rows[: request.size]], next_after(rows, request, "project_id"))

    async def create_account(
        self, actor: Actor, new: NewAccount, asked: Asked | None
    ) -> tuple[Account, bool]:
        organization_id = actor.organization_id
        async with self._database.connection(system=True) as connection:
            if await connection.fetchval(_IS_CLIENT, new.client_id):
                raise NameTaken(name=new.client_id)
        with named(new.client_id):
            async with self._database.transaction(organization_id=organization_id) as connection:
                known = await claim(connection, actor, asked, new.client_id)
                if known is None:
                    await connection.execute(_INSERT_ACCOUNT, organization_id, *_account_values(new))
                return await _account(connection, organization_id, new.client_id), known is None

    async def account(self, organization_id: str, client_id: str) -> Account | None:
        async with self._database.connection(organization_id=organization_id) as connection:
            row = await connection.fetchrow(FIND_ACCOUNT, organization_id, client_id)
        return None if row is None else _account_of(row)

    async def accounts(self, organization_id: str, request: PageRequest) -> Page[Account]:
        async with self._database.connection(organization_id=organization_id) as connection:
            rows = await connection.fetch(ACCOUNTS, organization_id, request.after, request.size + 1)
        return Page(
            [_account_of(row) for row in rows[: request.size]], next_after(rows, request, "client_id")
        )

    async def disable_account(self, organization_id: str, client_id: str) -> Account:
        async with self._database.transaction(organization_id=organization_id) as connection:
            await connection.execute(_DISABLE_ACCOUNT, organization_id, client_id)
            return await _account(connection, organization_id, client_id)


async def _organization(connection: Connection, organization_id: str) -> tuple[Organization, Person] | None:
    row = await connection.fetchrow(FIND_ORGANIZATION, organization_id)
    admin = await connection.fetchrow(_FIRST_ADMIN, organization_id)
    return None if row is None or admin is None else (Organization(**row), person(admin))


async def _account(connection: Connection, organization_id: str, client_id: str) -> Account:
    row = await connection.fetchrow(FIND_ACCOUNT, organization_id, client_id)
    if row is None:
        raise NotFound(kind="service_account")
    return _account_of(row)


def _account_values(new: NewAccount) -> tuple[object, ...]:
    return new.client_id, new.project_id, new.secret_digest, new.role.value, sorted(new.scopes)


def _account_of(row: asyncpg.Record) -> Account:
    return Account(
        client_id=row["client_id"],
        role=Role(row["role"]),
        organization_id=row["organization_id"],
        project_id=row["project_id"],
        scopes=frozenset(row["scopes"]),
        disabled=row["disable_time"] is not None,
        create_time=row["create_time"],
    )
