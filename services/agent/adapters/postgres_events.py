"""What is told of runs, in PostgreSQL. A batch is one statement, so it is one round trip and all or nothing."""
# ruff: noqa: S608 - The statements are put together from constants of ours alone.

from collections.abc import Sequence

from ollamesh.agent.v1 import run_pb2

from services.agent.adapters.postgres_runs import forget_messages
from services.agent.core.events import Event, Finished
from services.agent.core.ids import RunId
from services.agent.errors import LeaseLost, RunNotFound
from services.agent.leases import Lease
from services.agent.ports import Batch, EventPage, StoredEvent
from services.agent.wire.events import (
    event_from_proto,
    event_to_proto,
    finished_to_proto,
    usage_to_proto,
)
from services.agent.wire.resources import message_to_proto
from services.common.postgres import Connection, Database

PAGE_SIZE = 128

# Only the holder appends, and only where the last batch ended: a batch that was committed although its
# reply was lost finds the run further on, and ALREADY tells it from a lease that was lost.
_BATCH = """
    WITH batch AS (
        SELECT $1::uuid AS run_id, $2::uuid AS holder, $3::bigint AS fence, $4::bigint AS after,
               $5::bytea[] AS events, $6::bytea AS usage
    )
"""
_OURS = """
    runs.run_id = batch.run_id AND runs.holder = batch.holder AND runs.fence = batch.fence
    AND last_sequence = after AND end_time IS NULL
"""
_TOLD = """
    told AS (
        INSERT INTO run_events (run_id, sequence, payload)
        SELECT held.run_id, after + place, event
        FROM held, batch, unnest(events) WITH ORDINALITY AS e (event, place)
    )
"""
TELL = f"""
    {_BATCH}, held AS (
        UPDATE runs SET last_sequence = after + cardinality(events), usage = batch.usage
        FROM batch WHERE {_OURS}
        RETURNING runs.run_id
    ), {_TOLD}
    SELECT 1 FROM held
"""
# What is said in the thread, and the end. The thread is locked before the run: see postgres_runs.py.
SAY = f"""
    {_BATCH}, said AS (
        SELECT $7::bytea[] AS messages, $8::text AS ending, $9::bytea AS outcome
    ), place AS (
        SELECT threads.thread_id FROM threads JOIN runs USING (thread_id)
        WHERE runs.run_id = $1 FOR UPDATE OF threads
    ), held AS (
        UPDATE runs
        SET last_sequence = after + cardinality(events), usage = batch.usage, outcome = said.outcome,
            status = coalesce(ending, status), end_time = CASE WHEN ending IS NOT NULL THEN now() END,
            mandate = CASE WHEN ending IS NULL THEN mandate END
        FROM batch, said, place
        WHERE {_OURS} AND runs.thread_id = place.thread_id
        RETURNING runs.run_id, runs.thread_id, rollback_requested
    ), {_TOLD}, thread AS (
        UPDATE threads
        SET message_count = message_count + cardinality(messages), update_time = now()
        FROM held, said
        WHERE threads.thread_id = held.thread_id
        RETURNING threads.thread_id, message_count - cardinality(messages) AS count_before
    ), written AS (
        INSERT INTO messages (thread_id, position, run_id, payload)
        SELECT thread_id, count_before + place, batch.run_id, message
        FROM thread, batch, said, unnest(messages) WITH ORDINALITY AS m (message, place)
    )
    SELECT thread_id, ending IS NOT NULL AND rollback_requested AS is_rolled_back FROM held, said
"""
ALREADY = "SELECT 1 FROM runs WHERE run_id = $1 AND holder = $2 AND fence = $3 AND last_sequence = $4"
READ = """
    SELECT runs.end_time IS NOT NULL AS ended, runs.last_sequence, told.sequence, told.payload
    FROM runs LEFT JOIN LATERAL (
        SELECT sequence, payload FROM run_events
        WHERE run_id = runs.run_id AND sequence > $2 ORDER BY sequence LIMIT $3
    ) told ON true
    WHERE runs.run_id = $1 ORDER BY told.sequence
"""
TOLD = "SELECT payload FROM run_events WHERE run_id = $1 ORDER BY sequence"


class PostgresEvents:
    """Implements ports.Events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, lease: Lease, batch: Batch) -> Sequence[StoredEvent]:
        stored = _stored(batch)
        ours = lease.run_id, lease.holder, lease.fence
        payloads = [event.payload for event in stored]
        told = *ours, batch.first_sequence - 1, payloads, usage_to_proto(batch.usage).SerializeToString()
        async with self._database.connection(system=True) as connection:
            if batch.messages or isinstance(batch.events[-1], Finished):
                done = await _say(connection, lease.run_id, told, batch)
            else:
                done = await connection.fetchval(TELL, *told) is not None
            if not done:
                last_sequence = batch.first_sequence + len(stored) - 1
                if await connection.fetchval(ALREADY, *ours, last_sequence) is None:
                    raise LeaseLost
        return stored

    async def read(self, run_id: RunId, *, after_sequence: int) -> EventPage:
        async with self._database.connection(system=True) as connection:
            rows = await connection.fetch(READ, run_id, after_sequence, PAGE_SIZE)
        if not rows:
            raise RunNotFound
        return EventPage(
            events=[
                StoredEvent(row["sequence"], row["payload"]) for row in rows if row["sequence"] is not None
            ],
            ended=rows[0]["ended"],
            last_sequence=rows[0]["last_sequence"],
        )

    async def told(self, run_id: RunId) -> Sequence[tuple[float, Event]]:
        async with self._database.connection(system=True) as connection:
            rows = await connection.fetch(TOLD, run_id)
        return [event_from_proto(run_pb2.RunEvent.FromString(row["payload"])) for row in rows]


async def _say(connection: Connection, run_id: RunId, told: tuple[object, ...], batch: Batch) -> bool:
    last = batch.events[-1]
    ending = last if isinstance(last, Finished) else None
    row = await connection.fetchrow(
        SAY,
        *told,
        [message_to_proto(message).SerializeToString() for message in batch.messages],
        ending and ending.status.value,
        ending and finished_to_proto(ending).SerializeToString(),
    )
    if row is not None and row["is_rolled_back"]:
        await forget_messages(connection, row["thread_id"], run_id)
    return row is not None


def _stored(batch: Batch) -> list[StoredEvent]:
    numbered = enumerate(batch.events, batch.first_sequence)
    return [
        StoredEvent(n, event_to_proto(event, sequence=n, time_s=batch.time_s).SerializeToString())
        for n, event in numbered
    ]
