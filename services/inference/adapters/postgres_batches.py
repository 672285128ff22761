"""Batches in PostgreSQL, as callers see them.

A batch is accepted in one transaction, its items in parts: COPY knows no row-level security. To be
cancelled is a mark on its row: the workers see it when they next say that they are alive, and the items are swept away
later. So whoever locks a batch's row holds nothing else.
"""

from collections.abc import Sequence
from uuid import UUID

import asyncpg

from services.common.postgres import Connection, Database
from services.inference.batches.ports import NewBatch, PageRequest, Record, Result, Results, Retry
from services.inference.core.batches import State
from services.inference.core.callers import Principal
from services.inference.errors import BatchNotFound, QuotaExceeded, RequestIdReused

INSERT_S_MAX = 60.0
ITEMS_AT_ONCE = 1000
RESULTS_PAGE_COUNT = 64
QUOTA_RETRY_S = 30.0
LAST_POSITION = 2**63 - 1

# A request that is 24 hours old is forgotten, and its id may name another one. A second request with the
# same id waits here until the first is committed or given up.
CLAIM = """
    INSERT INTO batch_requests AS known (organization_id, user_id, request_id, body_hash, batch_id)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (organization_id, user_id, request_id) DO UPDATE
    SET body_hash = excluded.body_hash, batch_id = excluded.batch_id, create_time = now()
    WHERE known.create_time < now() - interval '24 hours'
    RETURNING batch_id
"""
MADE = """
    SELECT batch_id FROM batch_requests
    WHERE organization_id = $1 AND user_id = $2 AND request_id = $3 AND body_hash = $4
    AND create_time >= now() - interval '24 hours'
"""
REMEMBERED = """
    SELECT body_hash, batch_id FROM batch_requests
    WHERE organization_id = $1 AND user_id = $2 AND request_id = $3
"""
# Creations of one organisation follow each other, so that its bound holds.
LOCK_ORGANIZATION = "SELECT pg_advisory_xact_lock(hashtextextended('batches of ' || $1, 0))"
COUNT_OPEN = "SELECT count(*) FROM batches WHERE organization_id = $1 AND end_time IS NULL"
INSERT = """
    INSERT INTO batches (batch_id, organization_id, project_id, user_id, roles, display_name, origin, item_count,
                         due_time, expire_time)
    SELECT $1, $2, $3, $4, $5, $6, $7, $8,
           now() + least($9::float8, $10::float8) * interval '1 second', now() + $10::float8 * interval '1 second'
    RETURNING *
"""
INSERT_ITEMS = """
    INSERT INTO batch_items (batch_id, item_index, request)
    SELECT $1, $2::bigint + place - 1, item FROM unnest($3::bytea[]) WITH ORDINALITY AS new (item, place)
"""
FIND = """
    SELECT * FROM batches
    WHERE batch_id = $1 AND organization_id = $2 AND user_id = $3 AND expire_time > now()
"""
PAGE = """
    SELECT * FROM batches
    WHERE organization_id = $1 AND user_id = $2 AND position < $3 AND expire_time > now()
    AND (origin IS NOT NULL OR NOT $5) ORDER BY position DESC LIMIT $4
"""
CANCEL = """
    UPDATE batches SET state = 'CANCELLED', end_time = now(), left_over = true
    WHERE batch_id = $1 AND organization_id = $2 AND user_id = $3 AND end_time IS NULL
    RETURNING *
"""
# Where nothing follows, one row says whether the batch goes on: both from one look at the store.
RESULTS = """
    SELECT batches.end_time IS NOT NULL AS ended, told.sequence, told.succeeded, told.payload
    FROM batches LEFT JOIN LATERAL (
        SELECT sequence, succeeded, payload FROM batch_results
        WHERE batch_id = batches.batch_id AND sequence > $4 AND ($6::boolean IS NULL OR succeeded = $6)
        ORDER BY sequence LIMIT $5
    ) told ON true
    WHERE batches.batch_id = $1 AND organization_id = $2 AND user_id = $3 AND expire_time > now()
    ORDER BY told.sequence
"""


class PostgresBatches:
    """Implements batches.ports.Batches."""

    def __init__(self, database: Database, *, open_max: int) -> None:
        """`open_max` bounds the batches of one organisation that have not ended."""
        self._database = database
        self._open_max = open_max

    async def create(self, new: NewBatch) -> Record:
        owner = new.creator.principal
        async with self._database.transaction(organization_id=owner.organization_id) as connection:
            if new.retry and (made := await _claim(connection, owner, new.retry, new.batch_id)):
                return await _find(connection, owner, made)
            await connection.execute(LOCK_ORGANIZATION, owner.organization_id)
            if await connection.fetchval(COUNT_OPEN, owner.organization_id) >= self._open_max:
                raise QuotaExceeded(quota="open_batches", limit=self._open_max, retry_after_s=QUOTA_RETRY_S)
            row = await connection.fetchrow(
                INSERT,
                new.batch_id,
                owner.organization_id,
                owner.project_id,
                owner.user_id,
                new.creator.roles,
                new.display_name.encode(),
                new.origin,
                len(new.items),
                new.window_s,
                new.retention_s,
            )
            for first in range(0, len(new.items), ITEMS_AT_ONCE):
                items = list(new.items[first : first + ITEMS_AT_ONCE])
                await connection.execute(INSERT_ITEMS, new.batch_id, first, items, timeout=INSERT_S_MAX)
        assert row is not None
        return _record(row)

    async def remembered(self, new: NewBatch) -> UUID | None:
        if new.retry is None:
            return None
        owner, retry = new.creator.principal, new.retry
        async with self._database.connection(organization_id=owner.organization_id) as connection:
            made: UUID | None = await connection.fetchval(
                MADE, owner.organization_id, owner.user_id, retry.request_id, retry.body_hash
            )
        return made

    async def find(self, owner: Principal, batch_id: UUID) -> Record:
        async with self._database.connection(organization_id=owner.organization_id) as connection:
            return await _find(connection, owner, batch_id)

    async def page(self, owner: Principal, request: PageRequest) -> tuple[Sequence[Record], bool]:
        before = LAST_POSITION if request.before is None else request.before
        async with self._database.connection(organization_id=owner.organization_id) as connection:
            rows = await connection.fetch(
                PAGE, owner.organization_id, owner.user_id, before, request.size + 1, request.only_of_origin
            )
        return [_record(row) for row in rows[: request.size]], len(rows) > request.size

    async def cancel(self, owner: Principal, batch_id: UUID) -> Record:
        async with self._database.connection(organization_id=owner.organization_id) as connection:
            row = await connection.fetchrow(CANCEL, batch_id, owner.organization_id, owner.user_id)
            return _record(row) if row is not None else await _find(connection, owner, batch_id)

    async def results(
        self, owner: Principal, batch_id: UUID, *, after_sequence: int, only: bool | None = None
    ) -> Results:
        async with self._database.connection(organization_id=owner.organization_id) as connection:
            rows = await connection.fetch(
                RESULTS,
                batch_id,
                owner.organization_id,
                owner.user_id,
                after_sequence,
                RESULTS_PAGE_COUNT,
                only,
            )
        if not rows:
            raise BatchNotFound
        found = [
            Result(row["sequence"], row["succeeded"], row["payload"])
            for row in rows
            if row["sequence"] is not None
        ]
        return Results(found=found, is_last=rows[0]["ended"] and len(found) < RESULTS_PAGE_COUNT)


async def _claim(connection: Connection, owner: Principal, retry: Retry, batch_id: UUID) -> UUID | None:
    """What the same request made before; None if this is the first. Raises RequestIdReused."""
    owned = owner.organization_id, owner.user_id, retry.request_id
    if await connection.fetchval(CLAIM, *owned, retry.body_hash, batch_id) is not None:
        return None
    row = await connection.fetchrow(REMEMBERED, *owned)
    assert row is not None, "it was there, and is not old enough to be swept"
    if row["body_hash"] != retry.body_hash:
        raise RequestIdReused
    made: UUID = row["batch_id"]
    return made


async def _find(connection: Connection, owner: Principal, batch_id: UUID) -> Record:
    row = await connection.fetchrow(FIND, batch_id, owner.organization_id, owner.user_id)
    if row is None:
        raise BatchNotFound
    return _record(row)


def _record(row: asyncpg.Record) -> Record:
    return Record(
        batch_id=row["batch_id"],
        position=row["position"],
        display_name=row["display_name"].decode(),
        origin=row["origin"],
        state=State(row["state"]),
        item_count=row["item_count"],
        succeeded_count=row["succeeded_count"],
        failed_count=row["failed_count"],
        create_time=row["create_time"],
        start_time=row["start_time"],
        end_time=row["end_time"],
        due_time=row["due_time"],
        expire_time=row["expire_time"],
    )
