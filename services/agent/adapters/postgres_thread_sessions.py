"""Where the sandbox session of each thread is, and which calls were begun in one."""

from collections.abc import Collection
from uuid import UUID

import asyncpg

from services.agent.adapters.thread_sessions import Begun, Place
from services.agent.core.ids import Owner, ThreadId
from services.agent.errors import ThreadNotFound
from services.common.postgres import Database

# What is of a thread that is deleted meanwhile can be stored no more: its parent row is gone, or not to be seen.
GONE = (asyncpg.ForeignKeyViolationError, asyncpg.InsufficientPrivilegeError)

BEGIN = """
    WITH claimed AS (
        INSERT INTO tool_claims (run_id, call_id) VALUES ($2, $3) ON CONFLICT DO NOTHING
    )
    SELECT target, session_id, (
        SELECT extract(epoch FROM now() - claim_time)::float8 FROM tool_claims
        WHERE run_id = $2 AND call_id = $3
    ) AS begun_s_ago
    FROM (VALUES ($1::uuid)) AS called (thread_id) LEFT JOIN thread_sessions USING (thread_id)
"""
FIND = """
    SELECT target, session_id FROM thread_sessions JOIN threads USING (thread_id)
    WHERE organization_id = $1 AND user_id = $2 AND thread_id = $3
"""
KEEP = """
    INSERT INTO thread_sessions (thread_id, target, session_id) VALUES ($1, $2, $3)
    ON CONFLICT (thread_id) DO UPDATE SET target = excluded.target, session_id = excluded.session_id
"""
UNUSED = """
    SELECT session_id FROM thread_sessions JOIN threads USING (thread_id)
    WHERE organization_id = $1 AND user_id = $2 AND target = $3 AND session_id = ANY($4)
    AND NOT EXISTS (SELECT FROM runs WHERE runs.thread_id = threads.thread_id AND end_time IS NULL)
"""


class PostgresThreadSessions:
    """Implements ThreadSessions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, owner: Owner, thread_id: ThreadId, key: str) -> Begun:
        run_id, _, call_id = key.partition(":")
        try:
            async with self._database.connection(organization_id=owner.organization_id) as connection:
                row = await connection.fetchrow(BEGIN, thread_id, UUID(run_id), call_id)
        except GONE:
            raise ThreadNotFound from None
        assert row is not None
        return Begun(_place(row), row["begun_s_ago"])

    async def find(self, owner: Owner, thread_id: ThreadId) -> Place | None:
        async with self._database.connection(organization_id=owner.organization_id) as connection:
            row = await connection.fetchrow(FIND, owner.organization_id, owner.user_id, thread_id)
        return None if row is None else _place(row)

    async def keep(self, owner: Owner, thread_id: ThreadId, place: Place) -> None:
        try:
            async with self._database.connection(organization_id=owner.organization_id) as connection:
                await connection.execute(KEEP, thread_id, place.target, place.session_id)
        except GONE:
            raise ThreadNotFound from None

    async def unused(self, owner: Owner, target: str, session_ids: Collection[str]) -> Collection[str]:
        owned = owner.organization_id, owner.user_id
        async with self._database.connection(organization_id=owner.organization_id) as connection:
            rows = await connection.fetch(UNUSED, *owned, target, list(session_ids))
        return {row["session_id"] for row in rows}


def _place(row: asyncpg.Record) -> Place | None:
    return None if row["session_id"] is None else Place(row["target"], row["session_id"])
