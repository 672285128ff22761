"""Revocations in PostgreSQL, and the bell that wakes the other replicas."""

import asyncio
import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import asyncpg
import structlog

from services.auth.revocations import Read
from services.common.postgres import AWAY, Connection, Database
from services.common.revoked import Kind, Revocation

log = structlog.get_logger(__name__)

CHANNEL = "revocations"
RECONNECT_AFTER_S = 1.0
CONNECT_S_MAX = 2.0
LISTENING_CHECK_EVERY_S = 5.0

_WRITE = f"""
    WITH written AS (
        -- Up to now, by the later of two clocks: a replica whose own was set back would leave the newest tokens out.
        INSERT INTO revocations AS known (kind, id, issue_time_max, forget_time)
        VALUES ($1, $2, CASE WHEN $3::timestamptz IS NOT NULL THEN greatest($3, now()) END, $4)
        ON CONFLICT (kind, id) DO UPDATE SET
            -- No cutoff is the strictest; greatest() would pass over it.
            issue_time_max = CASE WHEN known.issue_time_max IS NULL OR excluded.issue_time_max IS NULL THEN NULL
                ELSE greatest(known.issue_time_max, excluded.issue_time_max) END,
            forget_time = greatest(known.forget_time, excluded.forget_time),
            changed_by = DEFAULT
        RETURNING kind, id, issue_time_max, forget_time
    ), ended AS (
        DELETE FROM mandates WHERE ended_by @> ARRAY[$1 || ':' || $2]  -- With the tokens that they came of.
    )
    SELECT written.*, pg_notify('{CHANNEL}', '') FROM written
"""  # noqa: S608 - a constant.
# The horizon is of the same snapshot as the rows: whatever is not in them was written by a transaction that was not
# finished, and so stands at or beyond it.
_CHANGED = """
    SELECT kind, id, issue_time_max, forget_time, horizon FROM
        (SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS horizon) AS now
        LEFT JOIN revocations ON forget_time > now() AND changed_by >= $1::text::xid8
"""
_FORGET = "DELETE FROM revocations WHERE forget_time < now()"


@dataclass(frozen=True, slots=True)
class PostgresRevocations:
    database: Database

    async def write(self, entry: Revocation) -> Revocation:
        async with self.database.connection() as connection:
            return await write(connection, entry)

    async def read(self, since: str) -> Read:
        async with self.database.connection() as connection:
            rows = await connection.fetch(_CHANGED, since)
        return Read(
            [_revocation(row) for row in rows if row["kind"] is not None], horizon=str(rows[0]["horizon"])
        )

    async def forget(self) -> None:
        async with self.database.connection() as connection:
            await connection.execute(_FORGET)


async def write(connection: Connection, entry: Revocation) -> Revocation:
    """Write it, and return it as it stands now, as a part of the connection's transaction: what else that does, and this, happen together."""
    row = await connection.fetchrow(
        _WRITE, entry.kind.value, entry.id, _time(entry.issued_until_s), _time(entry.forget_at_s)
    )
    assert row is not None  # It returns what it wrote.
    return _revocation(row)


async def listen(database_url: str, bells: Mapping[str, Callable[[], None]]) -> None:
    """Ring the bell of a channel whenever something was written, by whatever replica; for ever.

    On a connection of its own: one that waits is of no use to a pool.
    """
    while True:
        try:
            connection = await asyncpg.connect(database_url, timeout=CONNECT_S_MAX)
            try:
                for channel, ring in bells.items():
                    await connection.add_listener(channel, lambda *_, ring=ring: ring())
                    ring()  # For what was written in between.
                while True:  # A dead peer is noticed by asking it.
                    await asyncio.sleep(LISTENING_CHECK_EVERY_S)
                    await connection.execute("SELECT 1", timeout=CONNECT_S_MAX)
            finally:
                connection.terminate()
        except AWAY as error:
            log.info("revocations_not_listening", error=type(error).__name__)
        await asyncio.sleep(RECONNECT_AFTER_S)


def _revocation(row: asyncpg.Record) -> Revocation:
    cutoff = row["issue_time_max"]
    return Revocation(
        kind=Kind(row["kind"]),
        id=row["id"],
        issued_until_s=None if cutoff is None else cutoff.timestamp(),
        forget_at_s=row["forget_time"].timestamp(),
    )


def _time(seconds: float | None) -> dt.datetime | None:
    return None if seconds is None else dt.datetime.fromtimestamp(seconds, dt.UTC)
