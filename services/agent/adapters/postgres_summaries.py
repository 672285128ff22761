"""Summaries of threads in PostgreSQL. What a thread's messages are is never lost: only models read less of them."""

from services.agent.core.ids import RunId
from services.agent.summaries import Kept
from services.common.postgres import Database

FIND = """
    SELECT summary, (
        SELECT count(*) FROM messages
        WHERE messages.thread_id = runs.thread_id AND messages.run_id <> $1
        AND messages.position > thread_summaries.position
    ) AS newer_count
    FROM runs JOIN thread_summaries USING (thread_id) WHERE runs.run_id = $1
"""
# The last message that is covered, counted from the newest that an earlier run said. While a run has not ended, later
# ones have said nothing.
KEEP = """
    INSERT INTO thread_summaries (thread_id, position, summary)
    SELECT runs.thread_id, covered.position, $3
    FROM runs, LATERAL (
        SELECT position FROM messages
        WHERE messages.thread_id = runs.thread_id AND messages.run_id <> $1
        ORDER BY position DESC OFFSET $2 LIMIT 1
    ) covered
    WHERE runs.run_id = $1 AND runs.end_time IS NULL
    ON CONFLICT (thread_id) DO UPDATE SET position = excluded.position, summary = excluded.summary
    WHERE thread_summaries.position < excluded.position
"""


class PostgresSummaries:
    """Implements summaries.Summaries."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, run_id: RunId) -> Kept | None:
        async with self._database.connection(system=True) as connection:
            row = await connection.fetchrow(FIND, run_id)
        return Kept(text=row["summary"].decode(), newer_count=row["newer_count"]) if row else None

    async def keep(self, run_id: RunId, kept: Kept) -> None:
        async with self._database.connection(system=True) as connection:
            await connection.execute(KEEP, run_id, kept.newer_count, kept.text.encode())
