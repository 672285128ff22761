"""What is told of runs, in PostgreSQL. A batch is one statement, so it is one round trip and all or nothing."""

from collections.abc import Sequence
from uuid import UUID

from ollamesh.agent.v1 import run_pb2

from services.agent.core.events import Event, Finished
from services.agent.core.ids import RunId
from services.agent.errors import LeaseLost, RunNotFound
from services.agent.ports import Batch, EventPage, StoredEvent
from services.agent.wire.events import (
    event_from_proto,
    event_to_proto,
    finished_to_proto,
    usage_to_proto,
)
from services.agent.wire.resources import message_to_proto
from services.common.postgres import Database

PAGE_SIZE = 128

# Only the holder appends, and only where the last batch ended: a batch that was committed although its
# reply was lost finds the run further on, and ALREADY tells it from a lease that was lost.
APPEND = """
    WITH batch AS (
        SELECT $1::uuid AS run_id, $2::uuid AS holder, $3::bigint AS after, $4::bytea[] AS events,
               $5::bytea[] AS messages, $6::bytea AS usage, $7::text AS ending, $8::bytea AS outcome
    ), held AS (
        UPDATE runs
        SET last_sequence = after + cardinality(events), usage = batch.usage, outcome = batch.outcome,
            status = coalesce(ending, status), end_time = CASE WHEN ending IS NOT NULL THEN now() END
        FROM batch
        WHERE runs.run_id = batch.run_id AND runs.holder = batch.holder AND last_sequence = after
        AND end_time IS NULL
        RETURNING runs.run_id, thread_id
    ), told AS (
        INSERT INTO run_events (run_id, sequence, payload)
        SELECT held.run_id, after + place, event
        FROM held, batch, unnest(events) WITH ORDINALITY AS e (event, place)
    ), thread AS (
        UPDATE threads
        SET message_count = message_count + cardinality(messages), update_time = now()
        FROM held, batch
        WHERE threads.thread_id = held.thread_id AND (ending IS NOT NULL OR cardinality(messages) > 0)
        RETURNING threads.thread_id, message_count - cardinality(messages) AS count_before
    ), said AS (
        INSERT INTO messages (thread_id, position, run_id, payload)
        SELECT thread_id, count_before + place, run_id, message
        FROM thread, batch, unnest(messages) WITH ORDINALITY AS m (message, place)
    )
    SELECT 1 FROM held
"""
ALREADY = "SELECT 1 FROM runs WHERE run_id = $1 AND holder = $2 AND last_sequence = $3"
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
    """Implements ports.Events for the replica that is called `holder`."""

    def __init__(self, database: Database, *, holder: UUID) -> None:
        self._database, self._holder = database, holder

    async def append(self, run_id: RunId, batch: Batch) -> Sequence[StoredEvent]:
        stored = _stored(batch)
        last = batch.events[-1]
        ending = last if isinstance(last, Finished) else None
        async with self._database.connection(system=True) as connection:
            done = await connection.fetchval(
                APPEND,
                run_id,
                self._holder,
                batch.first_sequence - 1,
                [event.payload for event in stored],
                [message_to_proto(message).SerializeToString() for message in batch.messages],
                usage_to_proto(batch.usage).SerializeToString(),
                ending and ending.status.value,
                ending and finished_to_proto(ending).SerializeToString(),
            )
            if done is None:
                last_sequence = batch.first_sequence + len(stored) - 1
                if await connection.fetchval(ALREADY, run_id, self._holder, last_sequence) is None:
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


def _stored(batch: Batch) -> list[StoredEvent]:
    numbered = enumerate(batch.events, batch.first_sequence)
    return [
        StoredEvent(n, event_to_proto(event, sequence=n, time_s=batch.time_s).SerializeToString())
        for n, event in numbered
    ]
