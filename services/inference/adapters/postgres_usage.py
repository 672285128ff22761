"""The usage ledger in PostgreSQL: rows are added in batches, and added up when somebody asks."""

from collections.abc import Collection, Sequence
from typing import Any

import asyncpg

from services.common.errors import StoreBusy
from services.common.postgres import Connection, Database
from services.inference.core.accounting import Dimension, Entry, Line, Question

KEEP_S_MAX = 60.0  # Rows may have to be moved.

# A column each, so that a batch of any size is one statement. Whoever writes an entry again adds nothing.
WRITE = """
    INSERT INTO usage_entries (
        entry_id, created_at, stream_id, organization_id, project_id, user_id, model, operation,
        prompt_token_count, output_token_count, gpu_s, queue_s, is_cached, is_joined, is_cancelled
    )
    SELECT * FROM unnest(
        $1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
        $9::bigint[], $10::bigint[], $11::float8[], $12::float8[], $13::boolean[], $14::boolean[], $15::boolean[]
    )
    ON CONFLICT (entry_id, created_at) DO NOTHING
"""
_KEEP = "SELECT made_count, dropped_count FROM keep_usage_partitions($1, $2)"
# A plan for any period would have to lock every day there is.
_PLAN_FOR_THE_PERIOD = "SET LOCAL plan_cache_mode = force_custom_plan"
_COLUMNS = {
    Dimension.PROJECT: "project_id",
    Dimension.USER: "user_id",
    Dimension.MODEL: "model",
    Dimension.DAY: "date_trunc('day', created_at, 'UTC')",
}
_SUMS = """
    count(*) AS request_count,
    coalesce(sum(prompt_token_count), 0)::bigint AS prompt_token_count,
    coalesce(sum(output_token_count), 0)::bigint AS output_token_count,
    coalesce(sum(gpu_s), 0) AS gpu_s,
    coalesce(sum(queue_s), 0) AS queue_s,
    count(*) FILTER (WHERE is_cached) AS cached_count,
    count(*) FILTER (WHERE is_joined) AS joined_count,
    count(*) FILTER (WHERE is_cancelled) AS cancelled_count
"""


async def charge(connection: Connection, *entries: Entry) -> None:
    """Add entries in the caller's own transaction. The same entry again adds nothing."""
    columns = zip(*map(_row, entries), strict=True)
    await connection.execute(WRITE, *map(list, columns))


class PostgresUsage:
    """Implements ports.UsageBook."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, entries: Sequence[Entry]) -> None:
        async with self._database.connection(system=True) as connection:
            await charge(connection, *entries)

    async def read(self, question: Question, *, lines_max: int) -> Sequence[Line]:
        async with self._database.transaction(organization_id=question.organization_id) as connection:
            await connection.execute(_PLAN_FOR_THE_PERIOD)
            statement, arguments = reading(question, lines_max=lines_max)
            rows = await connection.fetch(statement, *arguments)
        return [_line(row, question.dimensions) for row in rows]

    async def keep(self, *, ahead_days: int, kept_days: int) -> tuple[int, int]:
        async with self._database.connection() as connection:
            try:
                row = await connection.fetchrow(_KEEP, ahead_days, kept_days, timeout=KEEP_S_MAX)
            except asyncpg.LockNotAvailableError as error:  # Somebody reads for long.
                raise StoreBusy from error
        assert row is not None
        return row["made_count"], row["dropped_count"]


def reading(question: Question, *, lines_max: int) -> tuple[str, Sequence[object]]:
    """The statement that answers a question, and its arguments."""
    columns = [
        f"{column} AS {dimension.value}"
        for dimension, column in _COLUMNS.items()
        if dimension in question.dimensions
    ]
    places = ", ".join(str(place) for place, _ in enumerate(columns, 1))
    told_apart = f"GROUP BY {places} ORDER BY {places}" if columns else ""
    whose = "user_id = $5 AND" if question.user_id is not None else ""
    # All of it is ours: what comes from outside is an argument.
    statement = f"""
        SELECT {", ".join([*columns, _SUMS])} FROM usage_entries
        WHERE {whose} organization_id = $1 AND created_at >= $2 AND created_at < $3 {told_apart} LIMIT $4
    """  # noqa: S608
    whom = [] if question.user_id is None else [question.user_id]
    return statement, [question.organization_id, question.start, question.end, lines_max, *whom]


def _row(entry: Entry) -> tuple[object, ...]:
    return (
        entry.entry_id,
        entry.created_at,
        entry.stream_id,
        entry.principal.organization_id,
        entry.principal.project_id,
        entry.principal.user_id,
        entry.model,
        entry.operation,
        entry.prompt_token_count,
        entry.output_token_count,
        entry.gpu_s,
        entry.queue_s,
        entry.cached,
        entry.joined,
        entry.cancelled,
    )


def _line(row: asyncpg.Record, dimensions: Collection[Dimension]) -> Line:
    found: dict[str, Any] = {each.value: None for each in Dimension if each not in dimensions}
    return Line(**found, **row)
