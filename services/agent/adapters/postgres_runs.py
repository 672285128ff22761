"""Runs in PostgreSQL: accepted in order, one at work per thread, held by one replica at a time.

A replica holds a run by a lease that it renews; whatever changes a run names its holder, so that a
replica that was given up for dead cannot write into what another one has taken over.
"""

from collections.abc import Mapping, Sequence
from uuid import UUID

import asyncpg
from ollamesh.agent.v1 import assistant_pb2, run_pb2, thread_pb2

from services.agent.adapters.postgres_requests import claim, remembered
from services.agent.adapters.postgres_threads import OWNED, next_after
from services.agent.core.conversation import Message
from services.agent.core.events import Status
from services.agent.core.ids import Owner, RunId, ThreadId
from services.agent.core.run_config import RunConfig
from services.agent.errors import LeaseLost, RunNotFound, ThreadBusy, ThreadNotFound
from services.agent.ports import NewRun, Orphan, Page, PageRequest, Retry, RunRecord
from services.agent.wire.events import finished_from_proto, usage_from_proto
from services.agent.wire.resources import config_from_proto, config_to_proto, message_from_proto
from services.common.postgres import Connection, Database

ADOPTED_AT_ONCE = 100

# Acceptances of one thread follow each other, so that positions rise in the order of their commits.
LOCK_THREAD = f"{OWNED} FOR UPDATE"
UNFINISHED = """
    SELECT run_id FROM runs JOIN threads USING (thread_id)
    WHERE organization_id = $1 AND user_id = $2 AND thread_id = $3 AND end_time IS NULL
    ORDER BY runs.position
"""
INSERT = """
    INSERT INTO runs (run_id, thread_id, input, config, holder, lease_until)
    VALUES ($1, $2, $3, $4, $5, now() + $6::float8 * interval '1 second')
    RETURNING *
"""
FIND = """
    SELECT runs.* FROM runs JOIN threads USING (thread_id)
    WHERE organization_id = $1 AND user_id = $2 AND run_id = $3
"""
PAGE = """
    SELECT * FROM runs WHERE thread_id = $1 AND position < coalesce($2, 9223372036854775807)
    ORDER BY position DESC LIMIT $3
"""
REQUEST_CANCEL = "UPDATE runs SET cancel_requested = true WHERE run_id = $1 AND end_time IS NULL"
BEGIN = """
    UPDATE runs SET status = 'RUNNING', start_time = coalesce(start_time, now())
    WHERE run_id = $1 AND holder = $2 AND end_time IS NULL AND NOT EXISTS (
        SELECT FROM runs before
        WHERE before.thread_id = runs.thread_id AND before.position < runs.position
        AND before.end_time IS NULL
    )
    RETURNING run_id
"""
HELD = "SELECT 1 FROM runs WHERE run_id = $1 AND holder = $2 AND end_time IS NULL"
HISTORY = """
    SELECT messages.payload FROM messages JOIN runs USING (thread_id)
    WHERE runs.run_id = $1 ORDER BY messages.position DESC LIMIT $2
"""
KEEP = """
    UPDATE runs SET lease_until = now() + $3::float8 * interval '1 second'
    WHERE run_id = ANY($1) AND holder = $2 AND end_time IS NULL
    RETURNING run_id, cancel_requested
"""
ADOPT = """
    UPDATE runs SET holder = $1, lease_until = now() + $2::float8 * interval '1 second'
    WHERE run_id IN (
        SELECT run_id FROM runs WHERE end_time IS NULL AND lease_until < now()
        ORDER BY position LIMIT $3 FOR UPDATE SKIP LOCKED
    )
    RETURNING run_id, config, cancel_requested
"""
FORGET_REQUESTS = "DELETE FROM requests WHERE create_time < now() - interval '24 hours'"


class PostgresRuns:
    """Implements ports.Runs for the replica that is called `holder`."""

    def __init__(self, database: Database, *, holder: UUID, lease_s: float) -> None:
        self._database, self._holder, self._lease_s = database, holder, lease_s

    async def accept(self, owner: Owner, new: NewRun, retry: Retry | None) -> tuple[RunRecord, bool]:
        async with self._database.transaction(organization_id=owner.organization_id) as connection:
            made = await claim(connection, owner, retry, new.run_id) if retry else new.run_id
            if made != new.run_id:
                return await _find(connection, owner, made), False
            owned = owner.organization_id, owner.user_id, new.thread_id
            if await connection.fetchval(LOCK_THREAD, *owned) is None:
                raise ThreadNotFound
            if new.reject_if_busy and (busy := await connection.fetchval(UNFINISHED, *owned)) is not None:
                raise ThreadBusy(run_id=busy)
            row = await connection.fetchrow(
                INSERT,
                new.run_id,
                new.thread_id,
                new.question.encode(),
                config_to_proto(new.config).SerializeToString(),
                self._holder,
                self._lease_s,
            )
            assert row is not None
            return _run(row), True

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
        return Page([_run(row) for row in rows[: request.size]], next_after(rows, request))

    async def unfinished(self, owner: Owner, thread_id: ThreadId) -> Sequence[RunId]:
        async with self._database.connection(organization_id=owner.organization_id) as connection:
            rows = await connection.fetch(UNFINISHED, owner.organization_id, owner.user_id, thread_id)
        return [RunId(row["run_id"]) for row in rows]

    async def request_cancel(self, run_id: RunId) -> None:
        async with self._database.connection(system=True) as connection:
            await connection.execute(REQUEST_CANCEL, run_id)

    async def begin(self, run_id: RunId) -> bool:
        async with self._database.connection(system=True) as connection:
            if await connection.fetchval(BEGIN, run_id, self._holder) is not None:
                return True
            if await connection.fetchval(HELD, run_id, self._holder) is None:
                raise LeaseLost
        return False

    async def history(self, run_id: RunId, *, count_max: int) -> Sequence[Message]:
        async with self._database.connection(system=True) as connection:
            rows = await connection.fetch(HISTORY, run_id, count_max)
        payloads = (thread_pb2.Message.FromString(row["payload"]) for row in reversed(rows))
        return [message_from_proto(payload) for payload in payloads]

    async def keep(self, run_ids: Sequence[RunId]) -> Mapping[RunId, bool]:
        if not run_ids:
            return {}
        async with self._database.connection(system=True) as connection:
            rows = await connection.fetch(KEEP, run_ids, self._holder, self._lease_s)
        return {RunId(row["run_id"]): row["cancel_requested"] for row in rows}

    async def adopt(self) -> Sequence[Orphan]:
        async with self._database.connection(system=True) as connection:
            await connection.execute(FORGET_REQUESTS)
            rows = await connection.fetch(ADOPT, self._holder, self._lease_s, ADOPTED_AT_ONCE)
        return [
            Orphan(
                run_id=RunId(row["run_id"]),
                config=_config(row),
                cancel_requested=row["cancel_requested"],
            )
            for row in rows
        ]


async def _find(connection: Connection, owner: Owner, run_id: UUID) -> RunRecord:
    row = await connection.fetchrow(FIND, owner.organization_id, owner.user_id, run_id)
    if row is None:
        raise RunNotFound
    return _run(row)


def _run(row: asyncpg.Record) -> RunRecord:
    outcome = row["outcome"]
    return RunRecord(
        run_id=RunId(row["run_id"]),
        thread_id=ThreadId(row["thread_id"]),
        position=row["position"],
        config=_config(row),
        status=Status(row["status"]),
        usage=usage_from_proto(run_pb2.RunUsage.FromString(row["usage"])),
        outcome=finished_from_proto(run_pb2.RunEvent.Finished.FromString(outcome))
        if outcome is not None
        else None,
        create_time=row["create_time"],
        start_time=row["start_time"],
        end_time=row["end_time"],
        last_sequence=row["last_sequence"],
    )


def _config(row: asyncpg.Record) -> RunConfig:
    return config_from_proto(assistant_pb2.RunConfig.FromString(row["config"]))
