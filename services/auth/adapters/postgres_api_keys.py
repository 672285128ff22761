"""API keys in PostgreSQL."""

import datetime as dt
from collections.abc import Sequence

import asyncpg

from services.auth.adapters.postgres_revocations import write
from services.auth.api_keys import Request
from services.auth.core.api_keys import KEYS_MAX, ApiKey, Kept, Owner
from services.auth.core.identity import SCOPES, Role
from services.auth.errors import NotFound, RequestIdReused, TooManyApiKeys
from services.common.postgres import Connection, Database
from services.common.revoked import Revocation

DEAD_KEPT_MAX = 100  # Of a user's keys that are over, for so many, and
DEAD_KEPT_DAYS = 90  # for so long; then only the audit trail knows of them.

# Who makes keys at once makes them one after the other, so that nobody gets more than a user may have.
_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtextextended('api_keys ' || $1, 0))"
_FORGET_REQUESTS = """
    UPDATE api_keys SET request_id = NULL, request_hash = NULL
    WHERE user_id = $1 AND request_id = $2 AND create_time < now() - interval '24 hours'
"""
_MADE_BY = """
    SELECT * FROM api_keys WHERE user_id = $1 AND request_id = $2 AND create_time >= now() - interval '24 hours'
"""
_LIVE_COUNT = """
    SELECT count(*) FROM api_keys WHERE user_id = $1 AND revoke_time IS NULL AND expire_time > now()
"""
_FORGET_DEAD = f"""
    WITH dead AS (
        SELECT api_key_id, least(revoke_time, expire_time) AS end_time,
            row_number() OVER (ORDER BY least(revoke_time, expire_time) DESC) AS place
        FROM api_keys WHERE user_id = $1 AND (revoke_time IS NOT NULL OR expire_time <= now())
    )
    DELETE FROM api_keys USING dead WHERE api_keys.api_key_id = dead.api_key_id
        AND (place > {DEAD_KEPT_MAX} OR end_time < now() - interval '{DEAD_KEPT_DAYS} days')
"""  # noqa: S608 - two numbers of ours.
_MAKE = """
    INSERT INTO api_keys (api_key_id, organization_id, project_id, user_id, display_name, prefix, digest, role,
        scopes, create_time, expire_time, request_id, request_hash)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) RETURNING *
"""
_FIND = """
    SELECT k.*, coalesce(u.role, s.role) AS owner_role, s.scopes AS owner_scopes FROM api_keys k
    LEFT JOIN users u ON u.user_id = k.user_id AND u.organization_id = k.organization_id
        AND u.disable_time IS NULL
    LEFT JOIN service_accounts s ON k.user_id LIKE 'service:%' AND s.client_id = substr(k.user_id, 9)
        AND s.organization_id = k.organization_id AND s.disable_time IS NULL
    WHERE k.api_key_id = $1
"""
_PAGE = """
    SELECT * FROM api_keys WHERE organization_id = $1 AND ($3::timestamptz IS NULL OR (create_time, api_key_id) < ($3, $4))
    ORDER BY create_time DESC, api_key_id DESC LIMIT $2
"""
_PAGE_OF_USER = _PAGE.replace("WHERE", "WHERE user_id = $5 AND")
_END = "UPDATE api_keys SET revoke_time = coalesce(revoke_time, now()) WHERE api_key_id = $1 RETURNING *"
_USED = """
    UPDATE api_keys SET last_used_time = used.at FROM unnest($1::text[], $2::timestamptz[]) AS used (id, at)
    WHERE api_key_id = used.id
        AND (last_used_time IS NULL OR last_used_time <= used.at - interval '1 minute')
"""


class PostgresApiKeys:
    """Implements api_keys.ApiKeyStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def make(self, key: ApiKey, digest: bytes, request: Request | None) -> ApiKey:
        async with self._database.transaction(organization_id=key.organization_id) as connection:
            await connection.execute(_ONE_AT_A_TIME, key.user_id)
            if request:
                if known := await _made_by(connection, key.user_id, request):
                    return known
                await connection.execute(_FORGET_REQUESTS, key.user_id, request.request_id)
            if await connection.fetchval(_LIVE_COUNT, key.user_id) >= KEYS_MAX:
                raise TooManyApiKeys(keys_max=KEYS_MAX)
            await connection.execute(_FORGET_DEAD, key.user_id)
            return _key(await _inserted(connection, key, digest, request))

    async def made_by(self, organization_id: str, user_id: str, request: Request) -> ApiKey | None:
        async with self._database.connection(organization_id=organization_id) as connection:
            return await _made_by(connection, user_id, request)

    async def find(self, key_id: str) -> Kept | None:
        async with self._database.connection(system=True) as connection:  # Whose it is, is what is asked.
            row = await connection.fetchrow(_FIND, key_id)
        if row is None:
            return None
        return Kept(key=_key(row), digest=row["digest"], owner=_owner(row))

    async def page(
        self, organization_id: str, user_id: str | None, *, before: tuple[float, str] | None, count: int
    ) -> Sequence[ApiKey]:
        at, key_id = (None, None) if before is None else (_time(before[0]), before[1])
        asked = (organization_id, count, at, key_id)
        async with self._database.connection(organization_id=organization_id) as connection:
            if user_id is None:
                rows = await connection.fetch(_PAGE, *asked)
            else:
                rows = await connection.fetch(_PAGE_OF_USER, *asked, user_id)
        return [_key(row) for row in rows]

    async def end(self, key: ApiKey, revocation: Revocation) -> ApiKey:
        async with self._database.transaction(organization_id=key.organization_id) as connection:
            row = await connection.fetchrow(_END, key.key_id)
            await write(connection, revocation)
        if row is None:
            raise NotFound(kind="api_key")
        return _key(row)

    async def used(self, times: Sequence[tuple[str, float]]) -> None:
        async with self._database.connection(system=True) as connection:  # Of whatever organisations.
            await connection.execute(
                _USED, [key_id for key_id, _ in times], [_time(at_s) for _, at_s in times]
            )


async def _made_by(connection: Connection, user_id: str, request: Request) -> ApiKey | None:
    row = await connection.fetchrow(_MADE_BY, user_id, request.request_id)
    if row is None:
        return None
    if row["request_hash"] != request.digest:
        raise RequestIdReused
    return _key(row)


async def _inserted(
    connection: Connection, key: ApiKey, digest: bytes, request: Request | None
) -> asyncpg.Record:
    try:
        row = await connection.fetchrow(
            _MAKE,
            key.key_id,
            key.organization_id,
            key.project_id,
            key.user_id,
            key.display_name,
            key.prefix,
            digest,
            key.role.value,
            sorted(key.scopes),
            _time(key.created_at_s),
            _time(key.expires_at_s),
            request.request_id if request else None,
            request.digest if request else None,
        )
    except asyncpg.ForeignKeyViolationError:
        raise NotFound(kind="project") from None
    assert row is not None
    return row


def _key(row: asyncpg.Record) -> ApiKey:
    return ApiKey(
        key_id=row["api_key_id"],
        prefix=row["prefix"],
        display_name=row["display_name"],
        user_id=row["user_id"],
        organization_id=row["organization_id"],
        project_id=row["project_id"],
        role=Role(row["role"]),
        scopes=frozenset(row["scopes"]),
        created_at_s=row["create_time"].timestamp(),
        expires_at_s=row["expire_time"].timestamp(),
        last_used_at_s=_seconds(row["last_used_time"]),
        revoked_at_s=_seconds(row["revoke_time"]),
    )


def _owner(row: asyncpg.Record) -> Owner | None:
    if row["owner_role"] is None:
        return None
    return Owner(role=Role(row["owner_role"]), scopes=frozenset(row["owner_scopes"] or ()) or SCOPES)


def _time(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def _seconds(time: dt.datetime | None) -> float | None:
    return None if time is None else time.timestamp()
