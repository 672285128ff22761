"""PostgreSQL through asyncpg: a bounded pool, and every way in which it can be away as one failure.

Connections are made when first needed, so that the service starts, unready, without its store.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeAlias
from uuid import UUID

import asyncpg

from services.agent.core.ids import Owner
from services.agent.errors import RequestIdReused, StoreUnavailable
from services.agent.ports import Retry

CONNECT_TIMEOUT_S = 3.0
ACQUIRE_TIMEOUT_S = 2.0  # A store that is this far behind is as good as away.
COMMAND_TIMEOUT_S = 5.0

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

# What a caller may try again. Any other failure of PostgreSQL is a bug of ours.
AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.DeadlockDetectedError,
)


class Database:
    """What the stores share."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @classmethod
    @asynccontextmanager
    async def connect(cls, dsn: str, *, connections_max: int) -> AsyncIterator["Database"]:
        pool = asyncpg.create_pool(
            dsn,
            min_size=0,
            max_size=connections_max,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=COMMAND_TIMEOUT_S,
        )
        async with pool:
            yield cls(pool)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection of the pool. Raises StoreUnavailable, also for what fails inside."""
        with _translated():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        async with self.connection() as connection:
            with _translated():
                async with connection.transaction():
                    yield connection

    async def answers(self) -> bool:
        try:
            async with self.connection() as connection:
                await connection.execute("SELECT 1")
        except StoreUnavailable:
            return False
        return True


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except AWAY as error:
        raise StoreUnavailable from error


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
