"""Who works on which run, in PostgreSQL.

A run that somebody holds may be taken once its lease has run out, and one that nobody holds from `lease_until` on too:
at once if it was given back or is one of a batch, when the first question lapses if it waits for people. So one index
and one condition find whatever is to be gone on with.
"""
# ruff: noqa: S608 - The statements are put together from constants of ours alone.

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
from ollamesh.agent.v1 import run_pb2, thread_pb2

from services.agent.adapters.mandate_seals import opened_mandate, sealed_mandate
from services.agent.adapters.run_rows import config_of
from services.agent.core.ids import AssistantId, Owner, RunId, ThreadId
from services.agent.errors import LeaseLost
from services.agent.leases import Held, History, Lease
from services.agent.wire.events import usage_from_proto
from services.agent.wire.resources import message_from_proto
from services.common.postgres import Database
from services.common.seals import Seals

# The run that the lease is for, as long as it is good: $1 to $3 are the lease's.
OURS = "run_id = $1 AND holder = $2 AND fence = $3 AND end_time IS NULL"
BEGIN = f"""
    UPDATE runs SET status = 'RUNNING', start_time = coalesce(start_time, now())
    WHERE {OURS} AND NOT EXISTS (
        SELECT FROM runs before
        WHERE before.thread_id = runs.thread_id AND before.position < runs.position
        AND before.end_time IS NULL
    )
    RETURNING run_id
"""
HELD = f"SELECT 1 FROM runs WHERE {OURS}"
# What a run said itself it has in its events. Of a run that was rolled back nothing is said any more, but what it had
# read may still stand in files.
HISTORY = """
    SELECT said.payload, EXISTS (
        SELECT FROM runs other
        WHERE other.thread_id = runs.thread_id AND other.rollback_requested AND other.start_time IS NOT NULL
    ) AS is_forgotten
    FROM runs LEFT JOIN LATERAL (
        SELECT payload, position FROM messages
        WHERE messages.thread_id = runs.thread_id AND messages.run_id <> runs.run_id
        ORDER BY position DESC LIMIT $2
    ) said ON true
    WHERE runs.run_id = $1 ORDER BY said.position DESC
"""
KEEP = """
    UPDATE runs SET lease_until = now() + $4::float8 * interval '1 second'
    FROM unnest($1::uuid[], $2::bigint[]) AS ours (run_id, fence)
    WHERE runs.run_id = ours.run_id AND runs.fence = ours.fence AND holder = $3 AND end_time IS NULL
    RETURNING runs.run_id, cancel_requested OR coalesce(watched_until < now(), false) AS is_cancelled
"""
_TAKE = """
    UPDATE runs SET holder = $1, fence = fence + 1, lease_until = now() + $2::float8 * interval '1 second',
           attempt_count = attempt_count + (taken.holder IS NOT NULL AND taken.status <> 'PENDING')::integer
    FROM taken JOIN threads USING (thread_id)
    WHERE runs.run_id = taken.run_id
    RETURNING runs.*, organization_id, user_id,
              cancel_requested OR coalesce(watched_until < now(), false) AS is_cancelled
"""
_ADOPT = f"""
    WITH taken AS (
        SELECT run_id, thread_id, holder, status FROM runs
        WHERE end_time IS NULL AND is_batch = $4 AND lease_until < now() {{}}
        ORDER BY lease_until, position LIMIT $3 FOR UPDATE SKIP LOCKED
    ) {_TAKE}
"""
ADOPT = _ADOPT.format("")
ADOPT_URGENT = _ADOPT.format("AND (status <> 'PENDING' OR cancel_requested)")
TAKE = f"""
    WITH taken AS (
        SELECT run_id, thread_id, holder, status FROM runs
        WHERE end_time IS NULL AND holder IS NULL AND run_id = $3 FOR UPDATE
    ) {_TAKE}
"""
WAKE = "UPDATE runs SET lease_until = now() WHERE run_id = $1 AND holder IS NULL AND end_time IS NULL"
LOCK = f"{HELD} FOR UPDATE"
# Answers that were given before the run was let go find nobody to wake: so they are looked for here, once it is locked.
SUSPEND = f"""
    UPDATE runs SET status = 'INTERRUPTED', holder = NULL, lease_until = CASE
        WHEN cancel_requested OR EXISTS (SELECT FROM approvals WHERE approval_id = ANY($4)) THEN now()
        ELSE least($5, watched_until)
    END
    WHERE {OURS}
"""
GIVE_BACK = f"UPDATE runs SET holder = NULL, lease_until = now() WHERE {OURS} RETURNING run_id"
CLAIM = "INSERT INTO tool_claims (run_id, call_id) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING run_id"
KEEP_MANDATE = f"UPDATE runs SET mandate = $4 WHERE {OURS} RETURNING run_id"


class PostgresLeases:
    """Implements leases.Leases for the replica that is called `holder`."""

    def __init__(
        self,
        database: Database,
        seals: Seals,
        *,
        holder: UUID,
        lease_s: float,
        renewals: Database | None = None,
    ) -> None:
        """`seals` are for mandate_seals.PURPOSE. `renewals`: a pool for these alone, so that no crowd of callers
        keeps a replica from holding what it has.
        """
        self._database, self._seals, self._holder, self._lease_s = database, seals, holder, lease_s
        self._renewals = renewals or database

    async def begin(self, lease: Lease) -> bool:
        async with self._database.connection(system=True) as connection:
            if await connection.fetchval(BEGIN, *_named(lease)) is not None:
                return True
            if await connection.fetchval(HELD, *_named(lease)) is None:
                raise LeaseLost
        return False

    async def history(self, run_id: RunId, *, count_max: int) -> History:
        async with self._database.connection(system=True) as connection:
            rows = await connection.fetch(HISTORY, run_id, count_max)
        payloads = [row["payload"] for row in reversed(rows) if row["payload"] is not None]
        return History(
            messages=[message_from_proto(thread_pb2.Message.FromString(payload)) for payload in payloads],
            is_whole=len(payloads) < count_max and not any(row["is_forgotten"] for row in rows),
        )

    async def keep(self, leases: Collection[Lease]) -> Mapping[RunId, bool]:
        if not leases:
            return {}
        run_ids, fences = [lease.run_id for lease in leases], [lease.fence for lease in leases]
        async with self._renewals.connection(system=True) as connection:
            rows = await connection.fetch(KEEP, run_ids, fences, self._holder, self._lease_s)
        return {RunId(row["run_id"]): row["is_cancelled"] for row in rows}

    async def adopt(
        self, *, count_max: int, batch_count_max: int, urgent_count_max: int = 0
    ) -> Sequence[Held]:
        wanted = [
            (statement, count, is_batch)
            for statement, count, is_batch in (
                (ADOPT, count_max, False),
                (ADOPT_URGENT, urgent_count_max - count_max, False),
                (ADOPT, batch_count_max, True),
            )
            if count > 0
        ]
        if not wanted:
            return []
        async with self._database.connection(system=True) as connection:
            rows = [
                row
                for statement, count, is_batch in wanted
                for row in await connection.fetch(statement, self._holder, self._lease_s, count, is_batch)
            ]
        return sorted(map(self._held, rows), key=lambda held: (held.is_batch, held.position))

    async def take(self, run_id: RunId) -> Held | None:
        async with self._database.connection(system=True) as connection:
            row = await connection.fetchrow(TAKE, self._holder, self._lease_s, run_id)
        return self._held(row) if row else None

    async def wake(self, run_id: RunId) -> None:
        async with self._database.connection(system=True) as connection:
            await connection.execute(WAKE, run_id)

    async def suspend(self, lease: Lease, questions: Mapping[UUID, float]) -> None:
        until = datetime.fromtimestamp(min(questions.values()), UTC)
        async with self._database.transaction(system=True) as connection:
            if await connection.fetchval(LOCK, *_named(lease)) is None:
                raise LeaseLost
            await connection.execute(SUSPEND, *_named(lease), list(questions), until)

    async def give_back(self, lease: Lease) -> None:
        async with self._database.connection(system=True) as connection:
            if await connection.fetchval(GIVE_BACK, *_named(lease)) is None:
                raise LeaseLost

    async def claim(self, lease: Lease, call_id: str) -> bool:
        async with self._database.transaction(system=True) as connection:
            if await connection.fetchval(LOCK, *_named(lease)) is None:
                raise LeaseLost
            return await connection.fetchval(CLAIM, lease.run_id, call_id) is not None

    async def keep_mandate(self, lease: Lease, owner: Owner, mandate: str) -> None:
        sealed = sealed_mandate(self._seals, mandate, owner, lease.run_id)
        async with self._database.connection(system=True) as connection:
            if await connection.fetchval(KEEP_MANDATE, *_named(lease), sealed) is None:
                raise LeaseLost

    def _held(self, row: asyncpg.Record) -> Held:
        owner, mandate = Owner(row["organization_id"], row["user_id"]), row["mandate"]
        return Held(
            lease=Lease(run_id=RunId(row["run_id"]), holder=row["holder"], fence=row["fence"]),
            thread_id=ThreadId(row["thread_id"]),
            owner=owner,
            position=row["position"],
            question=row["input"].decode(),
            config=config_of(row),
            assistant_id=row["assistant_id"] and AssistantId(row["assistant_id"]),
            assistant_version=row["assistant_version"],
            is_batch=row["is_batch"],
            usage=usage_from_proto(run_pb2.RunUsage.FromString(row["usage"])),
            last_sequence=row["last_sequence"],
            attempt_count=row["attempt_count"],
            is_cancelled=row["is_cancelled"],
            trace_parent=row["trace_parent"],
            mandate=mandate and opened_mandate(self._seals, mandate, owner, row["run_id"]),
        )


def _named(lease: Lease) -> tuple[UUID, UUID, int]:
    return lease.run_id, lease.holder, lease.fence
