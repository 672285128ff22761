"""Users in PostgreSQL. Whose they are is asked in SQL, never afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from services.auth.adapters.postgres_requests import claim, remembered
from services.auth.core.identity import Role
from services.auth.core.people import Actor, Asked, UserId
from services.auth.errors import LastAdmin, NameTaken, NotFound
from services.auth.people_ports import NewPerson, Page, PageRequest, Person
from services.common.postgres import Connection, Database

_SELECT = """
    SELECT user_id, username, role, organization_id, project_id, disable_time, create_time, display_name,
        coalesce(issuer, '') AS issuer
    FROM users WHERE organization_id = $1
"""
FIND = f"{_SELECT} AND user_id = $2"
PAGE = f"{_SELECT} AND username > $2 ORDER BY username LIMIT $3"
INSERT = """
    INSERT INTO users (organization_id, user_id, project_id, username, password_hash, role)
    VALUES ($1, $2, $3, $4, $5, $6)
"""
_HASH_OF = "SELECT password_hash FROM users WHERE organization_id = $1 AND user_id = $2"
_USERNAMES = "users_username_key"  # PostgreSQL's name for the constraint.
_SET_ROLE = "UPDATE users SET role = $3 WHERE organization_id = $1 AND user_id = $2"
_SET_PROJECT = "UPDATE users SET project_id = $3 WHERE organization_id = $1 AND user_id = $2"
_SET_HASH = """
    UPDATE users SET password_hash = $3
    WHERE organization_id = $1 AND user_id = $2 AND password_hash IS NOT NULL
"""
_DISABLE = """
    UPDATE users SET disable_time = coalesce(disable_time, now()) WHERE organization_id = $1 AND user_id = $2
"""
_ENABLE = "UPDATE users SET disable_time = NULL WHERE organization_id = $1 AND user_id = $2"
# Whoever takes an admin's rights away waits for the others who do, so that two cannot each leave it to the other.
_ONE_AT_A_TIME = "SELECT 1 FROM organizations WHERE organization_id = $1 FOR NO KEY UPDATE"
_OTHER_ADMIN = """
    SELECT 1 FROM users
    WHERE organization_id = $1 AND user_id <> $2 AND role = 'admin' AND disable_time IS NULL LIMIT 1
"""


class PostgresPeople:
    """Implements people_ports.PeopleStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def remembered(self, actor: Actor, asked: Asked) -> str | None:
        async with self._database.connection(organization_id=actor.organization_id) as connection:
            return await remembered(connection, actor, asked)

    async def create(self, actor: Actor, new: NewPerson, asked: Asked | None) -> Person:
        organization_id = actor.organization_id
        with named(new.user_id, username=new.username):
            async with self._database.transaction(organization_id=organization_id) as connection:
                known = await claim(connection, actor, asked, new.user_id)
                if known is None:
                    await insert(connection, organization_id, new)
                return await _found(connection, organization_id, known or new.user_id)

    async def find(self, organization_id: str, user_id: str) -> Person | None:
        async with self._database.connection(organization_id=organization_id) as connection:
            row = await connection.fetchrow(FIND, organization_id, user_id)
        return None if row is None else person(row)

    async def password_hash(self, organization_id: str, user_id: str) -> str | None:
        async with self._database.connection(organization_id=organization_id) as connection:
            found: str | None = await connection.fetchval(_HASH_OF, organization_id, user_id)
        return found

    async def page(self, organization_id: str, request: PageRequest) -> Page[Person]:
        async with self._database.connection(organization_id=organization_id) as connection:
            rows = await connection.fetch(PAGE, organization_id, request.after, request.size + 1)
        return Page([person(row) for row in rows[: request.size]], next_after(rows, request, "username"))

    async def set_role(self, organization_id: str, user_id: str, role: Role) -> Person:
        async with self._database.transaction(organization_id=organization_id) as connection:
            if role is not Role.ADMIN:
                await _leave_an_admin(connection, organization_id, user_id)
            await connection.execute(_SET_ROLE, organization_id, user_id, role.value)
            return await _found(connection, organization_id, user_id)

    async def set_project(self, organization_id: str, user_id: str, project_id: str) -> Person:
        with named(""):
            async with self._database.transaction(organization_id=organization_id) as connection:
                await connection.execute(_SET_PROJECT, organization_id, user_id, project_id)
                return await _found(connection, organization_id, user_id)

    async def set_password_hash(self, organization_id: str, user_id: str, new: str) -> Person:
        async with self._database.transaction(organization_id=organization_id) as connection:
            await connection.execute(_SET_HASH, organization_id, user_id, new)
            return await _found(connection, organization_id, user_id)

    async def set_disabled(self, organization_id: str, user_id: str, *, disabled: bool) -> Person:
        async with self._database.transaction(organization_id=organization_id) as connection:
            if disabled:
                await _leave_an_admin(connection, organization_id, user_id)
            await connection.execute(_DISABLE if disabled else _ENABLE, organization_id, user_id)
            return await _found(connection, organization_id, user_id)


async def insert(connection: Connection, organization_id: str, new: NewPerson) -> None:
    await connection.execute(
        INSERT, organization_id, new.user_id, new.project_id, new.username, new.password_hash, new.role.value
    )


@contextmanager
def named(name: str, *, username: str = "") -> Iterator[None]:
    """Say in our words what a constraint of the schema forbids."""
    try:
        yield
    except asyncpg.UniqueViolationError as error:
        raise NameTaken(name=username if error.constraint_name == _USERNAMES else name) from error
    except asyncpg.ForeignKeyViolationError as error:
        raise NotFound(kind="project") from error


def next_after(rows: list[asyncpg.Record], request: PageRequest, key: str) -> str:
    """Where the next page starts, when one row more was asked for than the page holds."""
    return str(rows[request.size - 1][key]) if len(rows) > request.size else ""


def person(row: asyncpg.Record) -> Person:
    return Person(
        user_id=UserId(row["user_id"]),
        username=row["username"],
        role=Role(row["role"]),
        organization_id=row["organization_id"],
        project_id=row["project_id"],
        disabled=row["disable_time"] is not None,
        create_time=row["create_time"],
        display_name=row["display_name"],
        issuer=row["issuer"],
    )


async def _leave_an_admin(connection: Connection, organization_id: str, user_id: str) -> None:
    """Raises LastAdmin if the user is the only one there is. To be asked before rights are taken away."""
    await connection.execute(_ONE_AT_A_TIME, organization_id)
    row = await connection.fetchrow(FIND, organization_id, user_id)
    is_admin = row is not None and row["role"] == "admin" and row["disable_time"] is None
    if is_admin and await connection.fetchval(_OTHER_ADMIN, organization_id, user_id) is None:
        raise LastAdmin


async def _found(connection: Connection, organization_id: str, user_id: str) -> Person:
    row = await connection.fetchrow(FIND, organization_id, user_id)
    if row is None:
        raise NotFound(kind="user")
    return person(row)
