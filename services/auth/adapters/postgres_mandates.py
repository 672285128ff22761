"""Mandates in PostgreSQL. Those that are over are swept by those that begin."""

import asyncpg

from services.auth.core.identity import SCOPES, Identity, Role
from services.auth.core.mandates import COUNT_MAX, Mandate, Standing
from services.auth.mandates import Kept, TooMany, Wanted
from services.common.postgres import Database

SWEPT_AT_ONCE = 50

_SWEEP = """
    DELETE FROM mandates WHERE digest IN (
        SELECT digest FROM mandates WHERE expire_time < now() ORDER BY expire_time LIMIT $1 FOR UPDATE SKIP LOCKED
    )
"""
_COUNT = "SELECT count(*) FROM mandates WHERE user_id = $1 AND expire_time > now()"
# Nothing outlives what it comes of. What was revoked on another replica just now may not be known to this one yet, so
# the list itself is asked.
_ADD = """
    INSERT INTO mandates (digest, holder, user_id, client_id, role_max, scopes, session_id, api_key_id, ended_by, expire_time)
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, least(
        now() + $10 * interval '1 second',
        (SELECT expire_time FROM refresh_families WHERE session_id = $7),
        (SELECT expire_time FROM api_keys WHERE api_key_id = $8)
    )
    WHERE ($7::text IS NULL OR EXISTS (
            SELECT FROM refresh_families WHERE session_id = $7 AND revoke_time IS NULL AND expire_time > now()))
        AND ($8::text IS NULL OR EXISTS (
            SELECT FROM api_keys WHERE api_key_id = $8 AND revoke_time IS NULL AND expire_time > now()))
        AND NOT EXISTS (
            SELECT FROM revocations JOIN unnest($11::text[], $12::text[]) AS own (kind, id) USING (kind, id)
            WHERE issue_time_max IS NULL OR issue_time_max >= to_timestamp($13))
    RETURNING expire_time
"""
_FIND = """
    SELECT m.*, extract(epoch FROM m.expire_time - clock_timestamp())::double precision AS left_s,
        coalesce(u.role, s.role) AS role, coalesce(u.organization_id, s.organization_id) AS organization_id,
        coalesce(k.project_id, u.project_id, s.project_id) AS project_id, s.scopes AS account_scopes,
        (m.session_id IS NOT NULL AND f.session_id IS NULL)
            OR (m.api_key_id IS NOT NULL AND k.api_key_id IS NULL) AS source_ended
    FROM mandates m
    LEFT JOIN users u ON u.user_id = m.user_id AND u.disable_time IS NULL
    LEFT JOIN service_accounts s ON m.user_id LIKE 'service:%' AND s.client_id = substr(m.user_id, 9)
        AND s.disable_time IS NULL
    LEFT JOIN refresh_families f ON f.session_id = m.session_id AND f.revoke_time IS NULL AND f.expire_time > now()
    LEFT JOIN api_keys k ON k.api_key_id = m.api_key_id AND k.revoke_time IS NULL AND k.expire_time > now()
    WHERE m.digest = $1 AND m.expire_time > now()
"""
_END = """
    WITH ended AS (DELETE FROM mandates WHERE digest = $1 AND holder = $2 RETURNING *)
    SELECT ended.*, coalesce(u.organization_id, s.organization_id, '') AS organization_id FROM ended
    LEFT JOIN users u ON u.user_id = ended.user_id
    LEFT JOIN service_accounts s ON ended.user_id LIKE 'service:%' AND s.client_id = substr(ended.user_id, 9)
"""


class PostgresMandates:
    """Implements mandates.MandateStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, wanted: Wanted, *, count_max: int = COUNT_MAX) -> float | None:
        mandate, ended_by = (
            wanted.mandate,
            sorted((kind.value, name) for kind, name in wanted.ended_by.items()),
        )
        async with self._database.transaction(organization_id=wanted.organization_id) as connection:
            await connection.execute(_SWEEP, SWEPT_AT_ONCE)
            # Callers that race may come to have a few more: the bound is for the store's sake.
            if await connection.fetchval(_COUNT, mandate.user_id) >= count_max:
                raise TooMany
            row = await connection.fetchrow(
                _ADD,
                mandate.digest,
                mandate.holder,
                mandate.user_id,
                mandate.client_id,
                mandate.role_max.value,
                sorted(mandate.scopes),
                mandate.session_id,
                mandate.api_key_id,
                [f"{kind}:{name}" for kind, name in ended_by],
                wanted.lifetime_s,
                [kind for kind, _ in ended_by],
                [name for _, name in ended_by],
                wanted.issued_at_s,
            )
        return None if row is None else float(row["expire_time"].timestamp())

    async def find(self, digest: bytes) -> Kept | None:
        async with self._database.connection(system=True) as connection:  # Whose it is, is what is asked.
            row = await connection.fetchrow(_FIND, digest)
        if row is None:
            return None
        standing = Standing(identity=_identity(row), source_ended=row["source_ended"])
        return Kept(_mandate(row), standing, row["left_s"])

    async def end(self, digest: bytes, holder: str) -> tuple[Mandate, str] | None:
        async with self._database.connection(system=True) as connection:
            row = await connection.fetchrow(_END, digest, holder)
        return None if row is None else (_mandate(row), row["organization_id"])


def _mandate(row: asyncpg.Record) -> Mandate:
    return Mandate(
        digest=row["digest"],
        holder=row["holder"],
        user_id=row["user_id"],
        client_id=row["client_id"],
        role_max=Role(row["role_max"]),
        scopes=frozenset(row["scopes"]),
        session_id=row["session_id"],
        api_key_id=row["api_key_id"],
    )


def _identity(row: asyncpg.Record) -> Identity | None:
    if row["role"] is None:
        return None
    return Identity(
        user_id=row["user_id"],
        role=Role(row["role"]),
        organization_id=row["organization_id"],
        project_id=row["project_id"],
        client_id=row["client_id"],
        scopes=frozenset(row["account_scopes"] or ()) or SCOPES,
    )
