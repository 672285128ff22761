"""Items of batches in PostgreSQL, as workers see them: taken by a lease, fenced by how often they were taken.

Times are the database's, so a worker whose clock is wrong, or that stood still, does no harm: an item whose lease has
passed may be taken by anybody, and what its former holder says afterwards finds another fence and changes nothing.

Locks are taken in one order, so that nobody waits in a circle: first a batch's row, then items; and items alone only
where nothing is waited for (SKIP LOCKED), or by their one holder, who says one thing at a time.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from uuid import UUID

import asyncpg

from services.common.postgres import Connection, Database
from services.inference.adapters.postgres_usage import charge
from services.inference.batches.ports import Claim, Creator, Done, Held, Place, PutBack
from services.inference.core.batches import Open
from services.inference.core.callers import Principal

SWEPT_AT_ONCE = 2000

OPEN = """
    SELECT DISTINCT ON (organization_id) batch_id, organization_id FROM batches
    WHERE end_time IS NULL AND due_time > now() AND NOT batch_id = ANY($1) AND EXISTS (
        SELECT FROM batch_items
        WHERE batch_items.batch_id = batches.batch_id AND attempt_count = 0 AND batch_items.due_time <= now()
    )
    ORDER BY organization_id, position
"""
# Whoever has the batch's row begins it, or has begun it: to wait for him would be a deadlock, for he may wait for one of
# these items. (`due` also locks what another has taken since its snapshot, though it does not return that.)
_TAKE = """
    WITH due AS MATERIALIZED ({due}), begun AS (
        UPDATE batches SET state = 'RUNNING', start_time = now()
        WHERE batch_id IN (
            SELECT batch_id FROM batches
            WHERE state = 'PENDING' AND end_time IS NULL AND batch_id IN (SELECT batch_id FROM due)
            FOR UPDATE SKIP LOCKED
        )
    ), taken AS (
        UPDATE batch_items item
        SET due_time = now() + $1::float8 * interval '1 second', take_count = take_count + 1,
            attempt_count = attempt_count + 1
        FROM due WHERE item.batch_id = due.batch_id AND item.item_index = due.item_index
        RETURNING item.*
    )
    SELECT taken.*, organization_id, project_id, user_id, roles FROM taken JOIN batches USING (batch_id)
"""
NEW = """
    SELECT batch_id, item_index FROM batch_items
    WHERE batch_id = $2 AND attempt_count = 0 AND due_time <= now()
    AND EXISTS (SELECT FROM batches WHERE batch_id = $2 AND end_time IS NULL AND batches.due_time > now())
    ORDER BY due_time, item_index LIMIT $3 FOR UPDATE SKIP LOCKED
"""
SUSPECT = """
    SELECT item.batch_id, item.item_index FROM batch_items item JOIN batches USING (batch_id)
    WHERE attempt_count > 0 AND item.due_time <= now() AND end_time IS NULL AND batches.due_time > now()
    ORDER BY item.due_time LIMIT 1 FOR UPDATE OF item SKIP LOCKED
"""
# Of whose window has ended, also what somebody has: the fence shuts them out.
OVERDUE = """
    SELECT batch_id, item_index FROM batch_items
    WHERE batch_id = (
        SELECT batch_id FROM batches WHERE end_time IS NULL AND batches.due_time <= now()
        ORDER BY batches.due_time LIMIT 1
    )
    ORDER BY item_index LIMIT $2 FOR UPDATE SKIP LOCKED
"""
TAKE, TAKE_SUSPECT, SEIZE = (_TAKE.format(due=due) for due in (NEW, SUSPECT, OVERDUE))
LOOK = """
    SELECT item.batch_id, item.item_index, item.take_count
    FROM unnest($1::uuid[], $2::integer[], $3::bigint[]) AS held (batch_id, item_index, take_count)
    JOIN batch_items item USING (batch_id, item_index, take_count) JOIN batches USING (batch_id)
    WHERE end_time IS NULL
"""
RENEW = """
    UPDATE batch_items item SET due_time = now() + $4::float8 * interval '1 second'
    FROM unnest($1::uuid[], $2::integer[], $3::bigint[]) AS held (batch_id, item_index, take_count)
    JOIN batches USING (batch_id)
    WHERE item.batch_id = held.batch_id AND item.item_index = held.item_index
    AND item.take_count = held.take_count AND end_time IS NULL
    RETURNING item.batch_id, item.item_index, item.take_count
"""
# The fence rises, so that it changes nothing when it is said again because its reply was lost.
PUT_BACK = """
    UPDATE batch_items item
    SET due_time = now() + back.delay_s * interval '1 second', put_back_count = put_back_count + 1,
        take_count = item.take_count + 1,
        attempt_count = attempt_count - CASE WHEN back.counts THEN 0 ELSE 1 END
    FROM unnest($1::uuid[], $2::integer[], $3::bigint[], $4::float8[], $5::boolean[])
        AS back (batch_id, item_index, take_count, delay_s, counts)
    WHERE item.batch_id = back.batch_id AND item.item_index = back.item_index
    AND item.take_count = back.take_count
"""
LOCK = (
    "SELECT succeeded_count + failed_count FROM batches WHERE batch_id = $1 AND end_time IS NULL FOR UPDATE"
)
FINISH = """
    WITH gone AS (
        DELETE FROM batch_items item
        USING unnest($3::integer[], $4::bigint[], $5::boolean[], $6::bytea[])
            WITH ORDINALITY AS done (item_index, take_count, succeeded, payload, place)
        WHERE item.batch_id = $1 AND item.item_index = done.item_index AND item.take_count = done.take_count
        RETURNING item.item_index, item.take_count, done.succeeded, done.payload, done.place
    ), told AS (
        INSERT INTO batch_results (batch_id, sequence, item_index, succeeded, payload)
        SELECT $1, $2::bigint + row_number() OVER (ORDER BY place), item_index, succeeded, payload FROM gone
        RETURNING succeeded
    ), counted AS (
        SELECT count(*) FILTER (WHERE succeeded) AS good, count(*) FILTER (WHERE NOT succeeded) AS bad FROM told
    ), batch AS (
        UPDATE batches
        SET succeeded_count = succeeded_count + good, failed_count = failed_count + bad,
            state = CASE WHEN $2 + good + bad = item_count THEN 'DONE' ELSE state END,
            end_time = CASE WHEN $2 + good + bad = item_count THEN now() END
        FROM counted WHERE batch_id = $1
    )
    SELECT item_index, take_count FROM gone
"""
# Each does a bounded part of what is to be done.
SWEEPS = {
    "ended": """
        UPDATE batches SET state = 'CANCELLED', end_time = now(), left_over = true
        WHERE end_time IS NULL AND expire_time <= now()
    """,
    # What a cancelled batch left. Whoever still has one of them finds it gone.
    "items": """
        DELETE FROM batch_items WHERE (batch_id, item_index) IN (
            SELECT batch_id, item_index FROM batch_items
            WHERE batch_id = (
                SELECT batch_id FROM batches WHERE left_over AND EXISTS (
                    SELECT FROM batch_items item WHERE item.batch_id = batches.batch_id
                ) LIMIT 1
            ) LIMIT $1 FOR UPDATE SKIP LOCKED
        )
    """,
    "left_over": """
        UPDATE batches SET left_over = false
        WHERE left_over AND NOT EXISTS (SELECT FROM batch_items item WHERE item.batch_id = batches.batch_id)
    """,
    "results": """
        DELETE FROM batch_results WHERE (batch_id, sequence) IN (
            SELECT batch_id, sequence FROM batch_results
            WHERE batch_id = (
                SELECT batch_id FROM batches WHERE expire_time <= now() AND EXISTS (
                    SELECT FROM batch_results old WHERE old.batch_id = batches.batch_id
                ) ORDER BY expire_time LIMIT 1
            ) LIMIT $1 FOR UPDATE SKIP LOCKED
        )
    """,
    "batches": """
        DELETE FROM batches WHERE batch_id IN (
            SELECT batch_id FROM batches WHERE expire_time <= now() AND end_time IS NOT NULL AND NOT left_over
            AND NOT EXISTS (SELECT FROM batch_results old WHERE old.batch_id = batches.batch_id)
            ORDER BY expire_time LIMIT $1 FOR UPDATE SKIP LOCKED
        )
    """,
    "files": """
        DELETE FROM files WHERE file_id IN (
            SELECT file_id FROM files WHERE expire_time <= now()
            ORDER BY expire_time LIMIT least($1, 10) FOR UPDATE SKIP LOCKED
        )
    """,
    # An hour after they mean nothing any more, so that nobody who was told of one finds it gone.
    "requests": """
        DELETE FROM batch_requests WHERE (organization_id, user_id, request_id) IN (
            SELECT organization_id, user_id, request_id FROM batch_requests
            WHERE create_time < now() - interval '25 hours' ORDER BY create_time LIMIT $1 FOR UPDATE SKIP LOCKED
        )
    """,
}


class PostgresBatchItems:
    """Implements batches.ports.Items."""

    def __init__(self, database: Database, *, lease_s: float) -> None:
        self._database = database
        self._lease_s = lease_s

    async def open(self, *, paused: Collection[UUID]) -> Sequence[Open]:
        async with self._database.connection(system=True) as connection:
            rows = await connection.fetch(OPEN, list(paused))
        return [Open(row["batch_id"], row["organization_id"]) for row in rows]

    async def take(self, batch_id: UUID, *, count_max: int) -> Sequence[Held]:
        return await self._taken(TAKE, batch_id, count_max)

    async def take_suspect(self) -> Held | None:
        return next(iter(await self._taken(TAKE_SUSPECT)), None)

    async def seize_overdue(self, *, count_max: int) -> Sequence[Held]:
        return await self._taken(SEIZE, count_max)

    async def keep(self, held: Collection[Held], *, renew: bool) -> set[Claim]:
        if not held:
            return set()
        lease = (self._lease_s,) if renew else ()
        async with self._database.connection(system=True) as connection:
            rows = await connection.fetch(RENEW if renew else LOOK, *_columns(held), *lease)
        return {Claim(Place(row["batch_id"], row["item_index"]), row["take_count"]) for row in rows}

    async def finish(self, done: Sequence[Done]) -> set[Claim]:
        written: set[Claim] = set()
        by_batch = sorted(done, key=lambda one: one.held.place.batch_id)  # Stable: results keep their order.
        for batch_id, group in groupby(by_batch, key=lambda one: one.held.place.batch_id):
            async with self._database.transaction(system=True) as connection:
                written |= await _finish(connection, batch_id, list(group))
        return written

    async def put_back(self, given_up: Sequence[PutBack]) -> None:
        if not given_up:
            return
        async with self._database.connection(system=True) as connection:
            await connection.execute(
                PUT_BACK,
                *_columns([one.held for one in given_up]),
                [one.delay_s for one in given_up],
                [one.counts for one in given_up],
            )

    async def sweep(self) -> Mapping[str, int]:
        swept = {}
        for name, statement in SWEEPS.items():
            async with self._database.connection(system=True) as connection:
                limit = (SWEPT_AT_ONCE,) if "$1" in statement else ()
                swept[name] = int((await connection.execute(statement, *limit)).split()[-1])
        return swept

    async def _taken(self, statement: str, *arguments: object) -> Sequence[Held]:
        async with self._database.connection(system=True) as connection:
            rows = await connection.fetch(statement, self._lease_s, *arguments)
        return sorted((_held(row) for row in rows), key=lambda held: held.place)


async def _finish(connection: Connection, batch_id: UUID, done: Sequence[Done]) -> set[Claim]:
    last_sequence = await connection.fetchval(LOCK, batch_id)
    if last_sequence is None:  # It has ended without them.
        return set()
    rows = await connection.fetch(
        FINISH,
        batch_id,
        last_sequence,
        [one.held.place.item_index for one in done],
        [one.held.fence for one in done],
        [one.succeeded for one in done],
        [one.payload for one in done],
    )
    written = {Claim(Place(batch_id, row["item_index"]), row["take_count"]) for row in rows}
    if entries := [one.entry for one in done if one.entry is not None and one.held.claim in written]:
        await charge(connection, *entries)
    return written


def _columns(held: Collection[Held]) -> tuple[list[UUID], list[int], list[int]]:
    return (
        [one.place.batch_id for one in held],
        [one.place.item_index for one in held],
        [one.fence for one in held],
    )


def _held(row: asyncpg.Record) -> Held:
    owner = Principal(
        organization_id=row["organization_id"], project_id=row["project_id"], user_id=row["user_id"]
    )
    return Held(
        place=Place(row["batch_id"], row["item_index"]),
        fence=row["take_count"],
        request=row["request"],
        creator=Creator(principal=owner, roles=tuple(row["roles"])),
        attempt_count=row["attempt_count"],
        put_back_count=row["put_back_count"],
    )
