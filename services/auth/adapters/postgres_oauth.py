"""OAuth's clients and sessions in PostgreSQL. Codes and devices are beside it."""

import datetime as dt
from collections.abc import Callable
from typing import TypeVar

import asyncpg

from services.auth.adapters.postgres_families import (
    INSERT_FAMILY,
    NOW,
    family_of,
    family_values,
    prune_families,
)
from services.auth.core.clients import ActsFor, Client, Grant
from services.auth.core.identity import SCOPES, Identity, Role, service_user_id
from services.auth.core.refresh import Family
from services.auth.people_ports import Page, PageRequest
from services.common.postgres import Database

T = TypeVar("T")

_FIND_CLIENT = """
    SELECT client_id, organization_id, display_name, redirect_uris, grants, scopes, role_max, secret_digest,
           first_party, in_browser, resource_server
    FROM oauth_clients WHERE client_id = $1 AND disable_time IS NULL
"""
_CLIENTS = """
    SELECT client_id, organization_id, display_name, redirect_uris, grants, scopes, role_max, secret_digest,
           first_party, in_browser, resource_server
    FROM oauth_clients WHERE organization_id = $1 AND client_id > $2 AND disable_time IS NULL
    ORDER BY client_id LIMIT $3
"""
_FIND_ACCOUNT = """
    SELECT client_id, organization_id, project_id, role, scopes, secret_digest, acts_for
    FROM service_accounts WHERE client_id = $1 AND disable_time IS NULL
"""
_ADD_CLIENT = """
    INSERT INTO oauth_clients (client_id, organization_id, display_name, redirect_uris, grants, scopes, role_max,
                               secret_digest, first_party, in_browser, resource_server)
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11
    WHERE NOT EXISTS (SELECT FROM service_accounts WHERE client_id = $1)
    ON CONFLICT DO NOTHING RETURNING client_id
"""
_DISABLE_CLIENT = """
    UPDATE oauth_clients SET disable_time = now()
    WHERE client_id = $1 AND organization_id = $2 AND disable_time IS NULL RETURNING client_id
"""
_END_OF_CLIENT = """
    UPDATE refresh_families SET revoke_time = now() WHERE client_id = $1 AND revoke_time IS NULL
"""
_FIND_IDENTITY = """
    SELECT user_id, role, organization_id, project_id FROM users WHERE user_id = $1 AND disable_time IS NULL
"""
_FAMILY = "SELECT * FROM refresh_families WHERE handle_digest = $1"
_UPDATE_FAMILY = """
    UPDATE refresh_families
    SET current_digest = $2, previous_digest = $3, salt = $4, generation = $5, rotate_time = $6,
        revoke_time = CASE WHEN $7 THEN coalesce(revoke_time, now()) END
    WHERE session_id = $1
"""
_END = "UPDATE refresh_families SET revoke_time = now() WHERE session_id = $1 AND revoke_time IS NULL"
_END_ALL = """
    UPDATE refresh_families SET revoke_time = now()
    WHERE user_id = $1 AND revoke_time IS NULL AND expire_time > now() RETURNING session_id
"""
_END_CODES = "UPDATE authorization_codes SET use_time = now() WHERE user_id = $1 AND use_time IS NULL"
_END_DEVICES = "UPDATE device_codes SET state = 'denied' WHERE user_id = $1 AND state = 'approved'"
# By their names in the table, which are shorter than those on the wire.
_GRANTS = {
    "authorization_code": Grant.AUTHORIZATION_CODE,
    "device_code": Grant.DEVICE_CODE,
    "refresh_token": Grant.REFRESH_TOKEN,
    "token_exchange": Grant.TOKEN_EXCHANGE,
}
_NAMES = {grant: name for name, grant in _GRANTS.items()}


class PostgresClients:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def find_client(self, client_id: str) -> Client | None:
        async with self._database.connection(system=True) as connection:
            if (row := await connection.fetchrow(_FIND_CLIENT, client_id)) is not None:
                return _client(row)
            row = await connection.fetchrow(_FIND_ACCOUNT, client_id)
        return None if row is None else _account(row)

    async def add_client(self, client: Client) -> bool:
        values = (
            client.client_id,
            client.organization_id,
            client.display_name,
            list(client.redirect_uris),
            sorted(_NAMES[grant] for grant in client.grants),
            sorted(client.scopes),
            client.role_max.value,
            client.secret_digest,
            client.first_party,
            client.in_browser,
            client.resource_server,
        )
        async with self._database.connection(system=True) as connection:
            return await connection.fetchval(_ADD_CLIENT, *values) is not None

    async def clients(self, organization_id: str, request: PageRequest) -> Page[Client]:
        async with self._database.connection(organization_id=organization_id) as connection:
            rows = await connection.fetch(_CLIENTS, organization_id, request.after, request.size + 1)
        found = [_client(row) for row in rows[: request.size]]
        return Page(found, found[-1].client_id if len(rows) > request.size else "")

    async def disable_client(self, client_id: str, organization_id: str) -> bool:
        async with self._database.transaction(organization_id=organization_id) as connection:
            found = await connection.fetchval(_DISABLE_CLIENT, client_id, organization_id) is not None
            if found:
                await connection.execute(_END_OF_CLIENT, client_id)
        return found

    async def find_identity(self, user_id: str) -> Identity | None:
        async with self._database.connection(system=True) as connection:
            row = await connection.fetchrow(_FIND_IDENTITY, user_id)
        if row is None:
            return None
        return Identity(
            user_id=row["user_id"],
            role=Role(row["role"]),
            organization_id=row["organization_id"],
            project_id=row["project_id"],
            client_id="login",
        )


class PostgresSessions:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, make: Callable[[float], Family]) -> Family:
        async with self._database.transaction() as connection:
            family = make(await connection.fetchval(NOW))
            await prune_families(connection, family.user_id)
            await connection.execute(INSERT_FAMILY, *family_values(family))
        return family

    async def rotate(self, handle: bytes, decide: Callable[[Family, float], tuple[T, Family]]) -> T | None:
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(f"{_FAMILY} FOR UPDATE", handle)
            if row is None:
                return None
            known = family_of(row)
            # After the lock, which may have had to be waited for.
            result, family = decide(known, await connection.fetchval(NOW))
            if family != known:
                await connection.execute(_UPDATE_FAMILY, *_changes(family))
        return result

    async def find_family(self, handle: bytes) -> Family | None:
        async with self._database.connection() as connection:
            row = await connection.fetchrow(_FAMILY, handle)
        return None if row is None else family_of(row)

    async def end(self, session_id: str) -> None:
        async with self._database.connection() as connection:
            await connection.execute(_END, session_id)

    async def end_all(self, user_id: str) -> list[str]:
        async with self._database.transaction() as connection:
            # First what could still begin a family: whoever is doing that now is waited for.
            await connection.execute(_END_CODES, user_id)
            await connection.execute(_END_DEVICES, user_id)
            return [row["session_id"] for row in await connection.fetch(_END_ALL, user_id)]


def _changes(family: Family) -> tuple[object, ...]:
    rotated = dt.datetime.fromtimestamp(family.rotated_at_s, dt.UTC)
    return (
        family.session_id,
        family.current,
        family.previous,
        family.salt,
        family.generation,
        rotated,
        family.revoked,
    )


def _client(row: asyncpg.Record) -> Client:
    return Client(
        client_id=row["client_id"],
        display_name=row["display_name"],
        organization_id=row["organization_id"],
        redirect_uris=tuple(row["redirect_uris"]),
        grants=frozenset(_GRANTS[name] for name in row["grants"]),
        scopes=frozenset(row["scopes"]),
        role_max=Role(row["role_max"]),
        secret_digest=row["secret_digest"],
        first_party=row["first_party"],
        in_browser=row["in_browser"],
        resource_server=row["resource_server"],
        acts_for=ActsFor.ORGANIZATION if "token_exchange" in row["grants"] else ActsFor.NOBODY,
    )


def _account(row: asyncpg.Record) -> Client:
    scopes = frozenset(row["scopes"]) or SCOPES
    return Client(
        client_id=row["client_id"],
        display_name=row["client_id"],
        organization_id=row["organization_id"],
        grants=frozenset({Grant.CLIENT_CREDENTIALS, Grant.TOKEN_EXCHANGE}),
        scopes=scopes,
        role_max=Role(row["role"]),
        secret_digest=row["secret_digest"],
        acts_for=ActsFor(row["acts_for"]),
        identity=Identity(
            user_id=service_user_id(row["client_id"]),
            role=Role(row["role"]),
            organization_id=row["organization_id"],
            project_id=row["project_id"],
            client_id=row["client_id"],
            scopes=scopes,
        ),
    )
