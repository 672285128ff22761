"""Refresh families as rows: what the stores that begin them share."""

import datetime as dt

import asyncpg

from services.auth.core.identity import Role
from services.auth.core.refresh import Family
from services.common.postgres import Connection

# For each user. Programs that log in for every call and never log out are why. What a service still acts for stays.
FAMILIES_MAX = 500
SWEPT_AT_ONCE = 50  # Old rows of others, so that none stays for good.
# The clock of all replicas. Not now(), which stands still in a transaction.
NOW = "SELECT extract(epoch FROM clock_timestamp())::double precision"
INSERT_FAMILY = """
    INSERT INTO refresh_families (session_id, handle_digest, current_digest, salt, generation, user_id, client_id,
                                  role_max, scopes, rotate_time, expire_time)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
"""
_MAKE_ROOM = """
    DELETE FROM refresh_families WHERE session_id IN (
        SELECT session_id FROM refresh_families WHERE user_id = $1
        ORDER BY (revoke_time IS NULL AND expire_time > now()) DESC, (generation > 1) DESC, create_time DESC
        OFFSET $2
    ) AND NOT EXISTS (SELECT FROM mandates WHERE mandates.session_id = refresh_families.session_id)
"""
_SWEEP = """
    DELETE FROM refresh_families WHERE session_id IN (
        SELECT session_id FROM refresh_families WHERE expire_time < now()
        ORDER BY expire_time LIMIT $1 FOR UPDATE SKIP LOCKED
    )
"""


async def prune_families(connection: Connection, user_id: str) -> None:
    """Make room for one more of the user's, and forget some that are over."""
    await connection.execute(_MAKE_ROOM, user_id, FAMILIES_MAX - 1)
    await connection.execute(_SWEEP, SWEPT_AT_ONCE)


def family_values(family: Family) -> tuple[object, ...]:
    return (
        family.session_id,
        family.handle,
        family.current,
        family.salt,
        family.generation,
        family.user_id,
        family.client_id,
        family.role_max.value,
        sorted(family.scopes),
        dt.datetime.fromtimestamp(family.rotated_at_s, dt.UTC),
        dt.datetime.fromtimestamp(family.expires_at_s, dt.UTC),
    )


def family_of(row: asyncpg.Record) -> Family:
    return Family(
        session_id=row["session_id"],
        handle=row["handle_digest"],
        current=row["current_digest"],
        previous=row["previous_digest"],
        salt=row["salt"],
        generation=row["generation"],
        user_id=row["user_id"],
        client_id=row["client_id"],
        role_max=Role(row["role_max"]),
        scopes=frozenset(row["scopes"]),
        rotated_at_s=row["rotate_time"].timestamp(),
        expires_at_s=row["expire_time"].timestamp(),
        revoked=row["revoke_time"] is not None,
    )
