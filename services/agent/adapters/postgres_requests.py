"""What a repeated request made the first time, in PostgreSQL."""

from uuid import UUID

from services.agent.core.ids import Owner
from services.agent.errors import RequestIdReused
from services.agent.ports import Retry
from services.common.postgres import Connection

# A request that is 24 hours old is forgotten, and its id may name another one. A second request with the
# same id waits here until the first is committed or given up.
CLAIM = """
    INSERT INTO requests AS known (organization_id, user_id, request_id, body_hash, object_id)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (organization_id, user_id, request_id) DO UPDATE
    SET body_hash = excluded.body_hash, object_id = excluded.object_id, create_time = now()
    WHERE known.create_time < now() - interval '24 hours'
    RETURNING object_id
"""
REMEMBERED = """
    SELECT body_hash, object_id FROM requests
    WHERE organization_id = $1 AND user_id = $2 AND request_id = $3
    AND create_time >= now() - interval '24 hours'
"""


async def claim(connection: Connection, owner: Owner, retry: Retry, object_id: UUID) -> UUID:
    """What the request makes: `object_id`, or what the same request made before.

    Raises RequestIdReused. To be used in the transaction that makes the object.
    """
    owned = owner.organization_id, owner.user_id, retry.request_id
    if await connection.fetchval(CLAIM, *owned, retry.body_hash, object_id) is not None:
        return object_id
    return await remembered(connection, owner, retry) or object_id


async def remembered(connection: Connection, owner: Owner, retry: Retry) -> UUID | None:
    """What the same request made before. Raises RequestIdReused if it was another."""
    row = await connection.fetchrow(REMEMBERED, owner.organization_id, owner.user_id, retry.request_id)
    if row is None:
        return None
    if row["body_hash"] != retry.body_hash:
        raise RequestIdReused
    object_id: UUID = row["object_id"]
    return object_id
