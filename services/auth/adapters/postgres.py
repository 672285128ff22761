"""Identities and signing keys in PostgreSQL."""

import datetime as dt
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import asyncpg

from services.auth.core.identity import SCOPES, Identity, Role, service_user_id
from services.auth.core.keys import Term
from services.auth.ports import Founders, SealedKey, ServiceAccount, User
from services.common.postgres import Database
from services.common.postgres_metrics import PoolMetrics

CONNECTIONS_MAX = 8
CONNECT_S_MAX = 1.0
COMMAND_S_MAX = 2.0
FOUNDING_LOCK = 0x666F756E64  # "found"; whoever holds it makes the founders.

_FIND_USER = """
    SELECT user_id, role, organization_id, project_id, password_hash FROM users
    WHERE username = $1 AND disable_time IS NULL
"""
_FIND_SERVICE_ACCOUNT = """
    SELECT client_id, role, organization_id, project_id, scopes, secret_digest FROM service_accounts
    WHERE client_id = $1 AND disable_time IS NULL
"""
_REHASH = "UPDATE users SET password_hash = $3 WHERE user_id = $1 AND password_hash = $2"
_SIGNING_KEYS = """
    SELECT key_id, create_time, active_from, retired_from, sealed_key FROM signing_keys
    WHERE remove_time IS NULL ORDER BY active_from, key_id
"""
_FOUND_ORGANIZATION = """
    INSERT INTO organizations (organization_id, display_name) VALUES ($1, $1) ON CONFLICT DO NOTHING
"""
_FOUND_PROJECT = """
    INSERT INTO projects (organization_id, project_id, display_name) VALUES ($1, $2, $2)
    ON CONFLICT DO NOTHING
"""
_FOUND_USER = """
    INSERT INTO users (user_id, organization_id, project_id, username, password_hash, role)
    VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING
"""
_FOUND_SERVICE_ACCOUNT = """
    INSERT INTO service_accounts (client_id, organization_id, project_id, secret_digest, role, acts_for)
    VALUES ($1, $2, $3, $4, $5, 'everybody') ON CONFLICT DO NOTHING
"""
_FOUND_KEY = """
    INSERT INTO signing_keys (key_id, active_from, sealed_key)
    SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT FROM signing_keys)
"""


def connected(database_url: str, metrics: PoolMetrics | None = None) -> AbstractAsyncContextManager[Database]:
    """What the service's stores share. Connects when first used: PostgreSQL may come up later."""
    return Database.connect(
        database_url,
        connections_max=CONNECTIONS_MAX,
        connect_s_max=CONNECT_S_MAX,
        command_s_max=COMMAND_S_MAX,
        metrics=metrics,
    )


class PostgresStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def found(self, founders: Founders) -> None:
        admin, service, key = founders.admin, founders.service, founders.key
        async with self._database.transaction(system=True) as connection:
            await connection.execute("SELECT pg_advisory_xact_lock($1)", FOUNDING_LOCK)
            for identity in (admin.identity, service.identity):
                home = identity.organization_id, identity.project_id
                await connection.execute(_FOUND_ORGANIZATION, home[0])
                await connection.execute(_FOUND_PROJECT, *home)
            await connection.execute(
                _FOUND_USER,
                admin.identity.user_id,
                admin.identity.organization_id,
                admin.identity.project_id,
                founders.username,
                admin.password_hash,
                admin.identity.role.value,
            )
            await connection.execute(
                _FOUND_SERVICE_ACCOUNT,
                service.identity.client_id,
                service.identity.organization_id,
                service.identity.project_id,
                service.secret_digest,
                service.identity.role.value,
            )
            await connection.execute(_FOUND_KEY, key.term.key_id, _time(key.term.active_from_s), key.sealed)

    async def find_user(self, username: str) -> User | None:
        async with self._database.connection(system=True) as connection:
            row = await connection.fetchrow(_FIND_USER, username)
        if row is None:
            return None
        return User(_identity(row, user_id=row["user_id"], client_id="login"), row["password_hash"])

    async def find_service_account(self, client_id: str) -> ServiceAccount | None:
        async with self._database.connection(system=True) as connection:
            row = await connection.fetchrow(_FIND_SERVICE_ACCOUNT, client_id)
        if row is None:
            return None
        scopes = frozenset(row["scopes"]) or SCOPES
        identity = _identity(row, user_id=service_user_id(client_id), client_id=client_id, scopes=scopes)
        return ServiceAccount(identity, row["secret_digest"])

    async def replace_password_hash(self, user_id: str, *, old: str, new: str) -> None:
        async with self._database.connection(system=True) as connection:
            await connection.execute(_REHASH, user_id, old, new)

    async def signing_keys(self) -> Sequence[SealedKey]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(_SIGNING_KEYS)
        return [SealedKey(term(row), row["sealed_key"]) for row in rows]

    async def answers(self) -> bool:
        return await self._database.answers()


def _identity(
    row: asyncpg.Record, *, user_id: str, client_id: str, scopes: frozenset[str] = SCOPES
) -> Identity:
    return Identity(
        user_id=user_id,
        role=Role(row["role"]),
        organization_id=row["organization_id"],
        project_id=row["project_id"],
        client_id=client_id,
        scopes=scopes,
    )


def term(row: asyncpg.Record) -> Term:
    retired = row["retired_from"]
    return Term(
        key_id=row["key_id"],
        active_from_s=row["active_from"].timestamp(),
        retired_from_s=None if retired is None else retired.timestamp(),
        made_at_s=row["create_time"].timestamp(),
    )


def _time(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
