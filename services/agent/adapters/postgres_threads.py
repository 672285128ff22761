"""Threads and their messages in PostgreSQL. Whose they are is asked in SQL, never afterwards."""

from collections.abc import Mapping

import asyncpg
from ollamesh.agent.v1 import thread_pb2

from services.agent.adapters.postgres_requests import claim
from services.agent.core.caps import Caps
from services.agent.core.ids import Owner, RunId, ThreadId
from services.agent.errors import ThreadNotFound, TooManyObjects
from services.agent.ports import MessageRecord, Page, PageRequest, Retry, ThreadRecord
from services.agent.wire.resources import message_from_proto
from services.common.postgres import Connection, Database

INSERT = "INSERT INTO threads (thread_id, organization_id, user_id, payload) VALUES ($1, $2, $3, $4)"
SELECT = """
    SELECT t.*, active.run_id AS active_run_id, coalesce(last.status = 'FAILED', false) AS failed,
        coalesce(active.status = 'INTERRUPTED', false) AS is_interrupted
    FROM threads t
    LEFT JOIN LATERAL (
        SELECT run_id, status FROM runs WHERE thread_id = t.thread_id AND end_time IS NULL ORDER BY position LIMIT 1
    ) active ON true
    LEFT JOIN LATERAL (
        SELECT status FROM runs WHERE thread_id = t.thread_id AND end_time IS NOT NULL
        ORDER BY position DESC LIMIT 1
    ) last ON true
    WHERE t.organization_id = $1 AND t.user_id = $2
"""
FIND = f"{SELECT} AND t.thread_id = $3"
PAGE = f"{SELECT} AND t.position < coalesce($3, 9223372036854775807) ORDER BY t.position DESC LIMIT $4"
# One more than there may be is looked for, and not all are counted.
IS_FULL = """
    SELECT 1 FROM threads WHERE organization_id = $1 AND user_id = $2 ORDER BY position DESC OFFSET $3 LIMIT 1
"""
# While it is locked, no run can be accepted for it: see PostgresRuns.
LOCK = "SELECT 1 FROM threads WHERE organization_id = $1 AND user_id = $2 AND thread_id = $3 FOR UPDATE"
FORGET_REQUESTS = """
    DELETE FROM requests WHERE organization_id = $1 AND user_id = $2 AND (
        object_id = $3 OR object_id IN (SELECT run_id FROM runs WHERE thread_id = $3)
        OR object_id IN (  -- The batch of which this is the last run.
            SELECT batch_id FROM runs WHERE thread_id = $3 AND batch_id IS NOT NULL AND NOT EXISTS (
                SELECT FROM runs other WHERE other.batch_id = runs.batch_id AND other.thread_id <> $3
            )
        )
    )
"""
# All else goes with it, by the schema.
DELETE = "DELETE FROM threads WHERE organization_id = $1 AND user_id = $2 AND thread_id = $3"
OWNED = "SELECT 1 FROM threads WHERE organization_id = $1 AND user_id = $2 AND thread_id = $3"
MESSAGES = """
    SELECT position, run_id, message_id, payload, create_time FROM messages
    WHERE thread_id = $1 AND position > coalesce($2, 0) ORDER BY position LIMIT $3
"""


class PostgresThreads:
    """Implements ports.Threads."""

    def __init__(self, database: Database, *, count_max: int = Caps().threads) -> None:
        """`count_max`: of one user. Callers that race may come to have a few more."""
        self._database, self._count_max = database, count_max

    async def create(
        self, owner: Owner, thread_id: ThreadId, name: str, labels: Mapping[str, str], retry: Retry | None
    ) -> ThreadRecord:
        payload = thread_pb2.Thread(display_name=name, labels=labels).SerializeToString()
        async with self._database.transaction(organization_id=owner.organization_id) as connection:
            made = await claim(connection, owner, retry, thread_id) if retry else thread_id
            if made == thread_id:
                await check_room(connection, owner, 1, count_max=self._count_max)
                await connection.execute(INSERT, thread_id, owner.organization_id, owner.user_id, payload)
            row = await connection.fetchrow(FIND, owner.organization_id, owner.user_id, made)
        if row is None:
            raise ThreadNotFound  # Made by this request and deleted since.
        return _thread(row)

    async def find(self, owner: Owner, thread_id: ThreadId) -> ThreadRecord:
        async with self._database.connection(organization_id=owner.organization_id) as connection:
            row = await connection.fetchrow(FIND, owner.organization_id, owner.user_id, thread_id)
        if row is None:
            raise ThreadNotFound
        return _thread(row)

    async def page(self, owner: Owner, request: PageRequest) -> Page[ThreadRecord]:
        async with self._database.connection(organization_id=owner.organization_id) as connection:
            rows = await connection.fetch(
                PAGE, owner.organization_id, owner.user_id, request.after, request.size + 1
            )
        return Page([_thread(row) for row in rows[: request.size]], next_after(rows, request))

    async def delete(self, owner: Owner, thread_id: ThreadId) -> None:
        owned = owner.organization_id, owner.user_id, thread_id
        async with self._database.transaction(organization_id=owner.organization_id) as connection:
            if await connection.fetchval(LOCK, *owned) is not None:
                await connection.execute(FORGET_REQUESTS, *owned)
                await connection.execute(DELETE, *owned)

    async def messages(self, owner: Owner, thread_id: ThreadId, request: PageRequest) -> Page[MessageRecord]:
        async with self._database.connection(organization_id=owner.organization_id) as connection:
            if await connection.fetchval(OWNED, owner.organization_id, owner.user_id, thread_id) is None:
                raise ThreadNotFound
            rows = await connection.fetch(MESSAGES, thread_id, request.after, request.size + 1)
        return Page([_message(row) for row in rows[: request.size]], next_after(rows, request))


async def check_room(connection: Connection, owner: Owner, count: int, *, count_max: int) -> None:
    """Raise TooManyObjects if the owner cannot have so many threads more."""
    owned = owner.organization_id, owner.user_id
    if count > count_max or await connection.fetchval(IS_FULL, *owned, count_max - count) is not None:
        raise TooManyObjects(limit="threads", max=count_max)


def next_after(rows: list[asyncpg.Record], request: PageRequest) -> int | None:
    """Where the next page starts, when one row more was asked for than the page holds."""
    if len(rows) <= request.size:
        return None
    position: int = rows[request.size - 1]["position"]
    return position


def _thread(row: asyncpg.Record) -> ThreadRecord:
    about = thread_pb2.Thread.FromString(row["payload"])
    return ThreadRecord(
        thread_id=ThreadId(row["thread_id"]),
        display_name=about.display_name,
        labels=dict(about.labels),
        active_run_id=row["active_run_id"] and RunId(row["active_run_id"]),
        failed=row["failed"],
        is_interrupted=row["is_interrupted"],
        message_count=row["message_count"],
        create_time=row["create_time"],
        update_time=row["update_time"],
    )


def _message(row: asyncpg.Record) -> MessageRecord:
    return MessageRecord(
        message_id=row["message_id"],
        run_id=RunId(row["run_id"]),
        message=message_from_proto(thread_pb2.Message.FromString(row["payload"])),
        create_time=row["create_time"],
    )
