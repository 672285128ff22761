"""Runs in PostgreSQL: accepted in order, found by their owners, cancelled and rolled back.

Whoever needs both locks the thread first and its runs then. So an acceptance that ends others, the end of a run and a
rollback follow each other.
"""

from collections.abc import Collection, Sequence
from uuid import UUID, uuid4

from ollamesh.agent.v1 import thread_pb2

from services.agent.adapters.mandate_seals import sealed_mandate
from services.agent.adapters.postgres_requests import claim, remembered
from services.agent.adapters.postgres_threads import INSERT as INSERT_THREAD
from services.agent.adapters.postgres_threads import OWNED, check_room, next_after
from services.agent.adapters.run_rows import run_of
from services.agent.core.caps import Caps
from services.agent.core.ids import Owner, RunId, ThreadId
from services.agent.errors import (
    RunBuiltUpon,
    RunNotFound,
    ThreadBusy,
    ThreadNotFound,
    TooManyObjects,
    TooManyRuns,
)
from services.agent.leases import Lease
from services.agent.ports import Accepted, Busy, NewRun, Page, PageRequest, Retry, RunRecord
from services.agent.wire.resources import config_to_proto
from services.common.postgres import Connection, Database
from services.common.seals import Seals
from services.common.tracing.current import current
from services.common.tracing.w3c import header

# Acceptances of one thread follow each other, so that positions rise in the order of their commits.
LOCK_THREAD = f"{OWNED} FOR UPDATE"
UNFINISHED = """
    SELECT run_id FROM runs JOIN threads USING (thread_id)
    WHERE organization_id = $1 AND user_id = $2 AND thread_id = $3 AND end_time IS NULL
    ORDER BY runs.position
"""
INSERT = """
    INSERT INTO runs (run_id, thread_id, input, config, holder, lease_until, watched_until,
                      batch_id, is_batch, mandate, assistant_id, assistant_version, trace_parent)
    VALUES ($1, $2, $3, $4, $8, now() + $9::float8 * interval '1 second',
            now() + $10::float8 * interval '1 second', $11::uuid, $11::uuid IS NOT NULL, $12, $5, $6, $7)
    RETURNING *
"""
# Runs of the owner that have not ended, wherever they are held: few beside those that have. And whether a thread of
# theirs is full: one more than there may be is looked for, and not all are counted.
ROOM = """
    SELECT (
        SELECT count(*) FROM (
            SELECT 1 FROM runs JOIN threads USING (thread_id)
            WHERE organization_id = $1 AND user_id = $2 AND end_time IS NULL AND is_batch = $3 LIMIT $4
        ) AS found
    ) AS unfinished_count, EXISTS (
        SELECT FROM runs WHERE thread_id = (
            SELECT thread_id FROM threads WHERE organization_id = $1 AND user_id = $2 AND thread_id = $5
        ) ORDER BY position DESC OFFSET $6 LIMIT 1
    ) AS is_full
"""
BATCH = """
    SELECT runs.* FROM runs JOIN threads USING (thread_id)
    WHERE organization_id = $1 AND user_id = $2 AND batch_id = $3 ORDER BY runs.position
"""
FIND = """
    SELECT runs.* FROM runs JOIN threads USING (thread_id)
    WHERE organization_id = $1 AND user_id = $2 AND run_id = $3
"""
PAGE = """
    SELECT * FROM runs WHERE thread_id = $1 AND position < coalesce($2, 9223372036854775807)
    ORDER BY position DESC LIMIT $3
"""
# One that nobody holds is taken by whoever looks next, and ended.
_END = """
    UPDATE runs SET cancel_requested = true, rollback_requested = rollback_requested OR $2,
           lease_until = CASE WHEN holder IS NULL THEN now() ELSE lease_until END
    WHERE end_time IS NULL
"""
REQUEST_CANCEL = f"{_END} AND run_id = $1"
DISPLACE = f"{_END} AND thread_id = $1 RETURNING run_id"
WATCHED = """
    UPDATE runs SET watched_until = now() + $2::float8 * interval '1 second'
    WHERE run_id = ANY($1) AND watched_until IS NOT NULL AND end_time IS NULL
"""
LOCK_THREAD_OF = """
    SELECT thread_id FROM threads WHERE thread_id = (SELECT thread_id FROM runs WHERE run_id = $1) FOR UPDATE
"""
# Its end took back what it had said; since then others may have begun.
IS_ROLLED_BACK = "SELECT rollback_requested AND end_time IS NOT NULL FROM runs WHERE run_id = $1"
# A run begins without a lock of its thread: so those that may are locked, until nothing is left for them to read.
LOCK_LATER = """
    SELECT FROM runs later JOIN runs ours USING (thread_id)
    WHERE ours.run_id = $1 AND later.position > ours.position AND later.end_time IS NULL
    ORDER BY later.position FOR UPDATE OF later
"""
# A run that has begun has read what was said before; one that only waits has not.
BUILT_UPON = """
    SELECT 1 FROM runs later JOIN runs ours USING (thread_id)
    WHERE ours.run_id = $1 AND later.position > ours.position AND (
        later.status IN ('RUNNING', 'INTERRUPTED')
        OR EXISTS (SELECT FROM messages WHERE thread_id = later.thread_id AND run_id = later.run_id)
    ) LIMIT 1
"""
# What it had read cannot be taken back: later runs are told that something was forgotten.
ROLLED_BACK = "UPDATE runs SET rollback_requested = true WHERE run_id = $1"
FORGET_MESSAGES = """
    WITH gone AS (DELETE FROM messages WHERE thread_id = $1 AND run_id = $2 RETURNING 1)
    UPDATE threads SET message_count = message_count - (SELECT count(*) FROM gone), update_time = now()
    WHERE thread_id = $1
"""
FORGET_SUMMARY = """
    DELETE FROM thread_summaries USING threads
    WHERE thread_summaries.thread_id = $1 AND threads.thread_id = $1
    AND thread_summaries.position > message_count
"""
FORGET_REQUESTS = "DELETE FROM requests WHERE create_time < now() - interval '24 hours'"


class PostgresRuns:
    """Implements ports.Runs for the replica that is called `holder`."""

    def __init__(
        self, database: Database, seals: Seals, *, holder: UUID, lease_s: float, caps: Caps | None = None
    ) -> None:
        """`seals` are for mandate_seals.PURPOSE."""
        self._database, self._seals, self._holder, self._lease_s = database, seals, holder, lease_s
        self._caps = caps or Caps()

    async def accept(self, owner: Owner, new: NewRun, retry: Retry | None) -> Accepted:
        async with self._database.transaction(organization_id=owner.organization_id) as connection:
            made = await claim(connection, owner, retry, new.run_id) if retry else new.run_id
            if made != new.run_id:
                return Accepted(record=await _find(connection, owner, made), lease=None)
            # Before the thread is locked: those who race for it wait long enough.
            await self._check_room(connection, owner, 1, new.thread_id)
            owned = owner.organization_id, owner.user_id, new.thread_id
            if await connection.fetchval(LOCK_THREAD, *owned) is None:
                raise ThreadNotFound
            if new.busy is Busy.REJECT and (busy := await connection.fetchval(UNFINISHED, *owned)):
                raise ThreadBusy(run_id=busy)
            displaced = []
            if new.busy in {Busy.INTERRUPT, Busy.ROLLBACK}:
                displaced = await connection.fetch(DISPLACE, new.thread_id, new.busy is Busy.ROLLBACK)
            row = await connection.fetchrow(
                INSERT, *_values(new), self._holder, self._lease_s, new.watched_for_s, None, None
            )
            assert row is not None
            return Accepted(
                record=run_of(row),
                lease=Lease(run_id=new.run_id, holder=self._holder, fence=row["fence"]),
                displaced=[RunId(other["run_id"]) for other in displaced],
            )

    async def accept_batch(
        self, owner: Owner, new: Sequence[NewRun], mandate: str, retry: Retry | None
    ) -> Sequence[RunRecord]:
        thread = thread_pb2.Thread().SerializeToString()
        async with self._database.transaction(organization_id=owner.organization_id) as connection:
            batch_id = uuid4()
            made = await claim(connection, owner, retry, batch_id) if retry else batch_id
            if made == batch_id:
                await check_room(connection, owner, len(new), count_max=self._caps.threads)
                await self._check_room(connection, owner, len(new))
                threads = [(run.thread_id, owner.organization_id, owner.user_id, thread) for run in new]
                rows = [
                    (*_values(run), None, 0.0, None, batch_id, self._sealed(mandate, owner, run.run_id))
                    for run in new
                ]
                await connection.executemany(INSERT_THREAD, threads)
                await connection.executemany(INSERT, rows)
            found = await connection.fetch(BATCH, owner.organization_id, owner.user_id, made)
        return [run_of(row) for row in found]

    async def repeated_batch(self, owner: Owner, retry: Retry) -> Sequence[RunRecord] | None:
        async with self._database.connection(organization_id=owner.organization_id) as connection:
            made = await remembered(connection, owner, retry)
            if made is None:
                return None
            found = await connection.fetch(BATCH, owner.organization_id, owner.user_id, made)
        return [run_of(row) for row in found]

    async def _check_room(
        self, connection: Connection, owner: Owner, count: int, thread_id: ThreadId | None = None
    ) -> None:
        """Raise TooManyRuns or TooManyObjects if there cannot be so many more, of a batch unless they name a thread."""
        count_max, runs_max = self._caps.runs_per_thread, self._caps.runs
        if thread_id is None:
            runs_max = self._caps.batch_runs
        owned = owner.organization_id, owner.user_id
        row = await connection.fetchrow(ROOM, *owned, thread_id is None, runs_max, thread_id, count_max - 1)
        assert row is not None
        if row["unfinished_count"] + count > runs_max:
            raise TooManyRuns(runs_max=runs_max)
        if row["is_full"]:
            raise TooManyObjects(limit="runs_per_thread", max=count_max)

    def _sealed(self, mandate: str, owner: Owner, run_id: RunId) -> bytes:
        return sealed_mandate(self._seals, mandate, owner, run_id)

    async def repeated(self, owner: Owner, retry: Retry) -> RunRecord | None:
        async with self._database.connection(organization_id=owner.organization_id) as connection:
            made = await remembered(connection, owner, retry)
            return await _find(connection, owner, made) if made else None

    async def find(self, owner: Owner, run_id: RunId) -> RunRecord:
        async with self._database.connection(organization_id=owner.organization_id) as connection:
            return await _find(connection, owner, run_id)

    async def page(self, owner: Owner, thread_id: ThreadId, request: PageRequest) -> Page[RunRecord]:
        async with self._database.connection(organization_id=owner.organization_id) as connection:
            if await connection.fetchval(OWNED, owner.organization_id, owner.user_id, thread_id) is None:
                raise ThreadNotFound
            rows = await connection.fetch(PAGE, thread_id, request.after, request.size + 1)
        return Page([run_of(row) for row in rows[: request.size]], next_after(rows, request))

    async def unfinished(self, owner: Owner, thread_id: ThreadId) -> Sequence[RunId]:
        async with self._database.connection(organization_id=owner.organization_id) as connection:
            rows = await connection.fetch(UNFINISHED, owner.organization_id, owner.user_id, thread_id)
        return [RunId(row["run_id"]) for row in rows]

    async def request_cancel(self, run_id: RunId, *, rollback: bool) -> None:
        async with self._database.connection(system=True) as connection:
            await connection.execute(REQUEST_CANCEL, run_id, rollback)

    async def roll_back(self, run_id: RunId) -> None:
        async with self._database.transaction(system=True) as connection:
            thread_id = await connection.fetchval(LOCK_THREAD_OF, run_id)
            if thread_id is None:
                raise RunNotFound
            if await connection.fetchval(IS_ROLLED_BACK, run_id):
                return
            await connection.execute(LOCK_LATER, run_id)
            if await connection.fetchval(BUILT_UPON, run_id) is not None:
                raise RunBuiltUpon
            await forget_messages(connection, thread_id, run_id)

    async def watched(self, run_ids: Collection[RunId], *, for_s: float) -> None:
        async with self._database.connection(system=True) as connection:
            await connection.execute(WATCHED, list(run_ids), for_s)

    async def tidy(self) -> None:
        async with self._database.connection(system=True) as connection:
            await connection.execute(FORGET_REQUESTS)


async def forget_messages(connection: Connection, thread_id: UUID, run_id: UUID) -> None:
    """Take the thread back to where it was before its last run. To be used while the thread is locked."""
    await connection.execute(ROLLED_BACK, run_id)
    await connection.execute(FORGET_MESSAGES, thread_id, run_id)
    await connection.execute(FORGET_SUMMARY, thread_id)


def _values(new: NewRun) -> tuple[UUID, UUID, bytes, bytes, UUID | None, int, str | None]:
    config = config_to_proto(new.config).SerializeToString()
    question = new.question.encode()
    asked_by = current()
    return (
        new.run_id,
        new.thread_id,
        question,
        config,
        new.assistant_id,
        new.assistant_version,
        header(asked_by) if asked_by is not None else None,
    )


async def _find(connection: Connection, owner: Owner, run_id: UUID) -> RunRecord:
    row = await connection.fetchrow(FIND, owner.organization_id, owner.user_id, run_id)
    if row is None:
        raise RunNotFound
    return run_of(row)
