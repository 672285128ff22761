"""What a repeated request made the first time, in PostgreSQL."""

from services.auth.core.people import Actor, Asked
from services.auth.errors import RequestIdReused
from services.common.postgres import Connection

# A request that is 24 hours old is forgotten, and its id may name another one. A second request with the same id waits
# here until the first is committed or given up. Whoever makes something sweeps away a few that are forgotten.
CLAIM = """
    WITH swept AS (
        DELETE FROM requests WHERE ctid IN (
            SELECT ctid FROM requests
            WHERE organization_id = $1 AND create_time < now() - interval '25 hours'
            AND (user_id, request_id) <> ($2, $3)
            ORDER BY create_time LIMIT 10 FOR UPDATE SKIP LOCKED
        )
    )
    INSERT INTO requests AS known (organization_id, user_id, request_id, body_digest, object_id)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (organization_id, user_id, request_id) DO UPDATE
    SET body_digest = excluded.body_digest, object_id = excluded.object_id, create_time = now()
    WHERE known.create_time < now() - interval '24 hours'
    RETURNING object_id
"""
REMEMBERED = """
    SELECT body_digest, object_id FROM requests
    WHERE organization_id = $1 AND user_id = $2 AND request_id = $3
    AND create_time >= now() - interval '24 hours'
"""


async def claim(connection: Connection, actor: Actor, asked: Asked | None, object_id: str) -> str | None:
    """What the same request made before; None if this one is to make `object_id` now.

    Raises RequestIdReused. To be used in the transaction that makes the object.
    """
    if asked is None:
        return None
    owned = actor.organization_id, actor.user_id, asked.request_id
    if await connection.fetchval(CLAIM, *owned, asked.body_digest, object_id) is not None:
        return None
    return await remembered(connection, actor, asked)


async def remembered(connection: Connection, actor: Actor, asked: Asked) -> str | None:
    """What the same request made before. Raises RequestIdReused if it was another."""
    row = await connection.fetchrow(REMEMBERED, actor.organization_id, actor.user_id, asked.request_id)
    if row is None:
        return None
    if row["body_digest"] != asked.body_digest:
        raise RequestIdReused
    object_id: str = row["object_id"]
    return object_id
