"""Assistants and their versions in PostgreSQL. Whose they are is asked in SQL, never afterwards."""

from uuid import UUID, uuid4

import asyncpg

from services.agent.adapters.postgres_requests import claim
from services.agent.adapters.postgres_threads import next_after
from services.agent.assistants import AssistantRecord
from services.agent.core.ids import AssistantId, Owner
from services.agent.errors import AssistantNotFound, TooManyObjects
from services.agent.ports import Page, PageRequest, Retry
from services.common.postgres import Connection, Database

VERSIONS_MAX = 1_000  # Of one assistant.

COUNT = "SELECT count(*) FROM assistants WHERE organization_id = $1 AND user_id = $2"
INSERT = """
    INSERT INTO assistants (assistant_id, organization_id, user_id, display_name) VALUES ($3, $1, $2, $4)
"""
INSERT_VERSION = """
    INSERT INTO assistant_versions (assistant_id, version, version_id, config) VALUES ($1, $2, $3, $4)
"""
RAISE = """
    UPDATE assistants SET version = version + 1, update_time = now()
    WHERE organization_id = $1 AND user_id = $2 AND assistant_id = $3 RETURNING version
"""
_SELECT = """
    SELECT a.assistant_id, a.position, a.display_name, a.create_time, v.version, v.config,
        v.create_time AS version_time
    FROM assistants a JOIN assistant_versions v USING (assistant_id)
    WHERE a.organization_id = $1 AND a.user_id = $2
"""
FIND = f"{_SELECT} AND a.assistant_id = $3 AND v.version = coalesce(nullif($4, 0), a.version)"
FIND_VERSION = f"{_SELECT} AND v.version_id = $3"
PAGE = f"""
    {_SELECT} AND v.version = a.version AND a.position < coalesce($3, 9223372036854775807)
    ORDER BY a.position DESC LIMIT $4
"""
FORGET_REQUESTS = """
    DELETE FROM requests WHERE organization_id = $1 AND user_id = $2 AND object_id IN (
        SELECT version_id FROM assistant_versions WHERE assistant_id = $3
    )
"""
DELETE = "DELETE FROM assistants WHERE organization_id = $1 AND user_id = $2 AND assistant_id = $3"


class PostgresAssistants:
    """Implements assistants.Assistants. Requests are remembered by the versions that they made."""

    def __init__(self, database: Database, *, count_max: int) -> None:
        """`count_max`: of one user. Callers that race may come to have a few more."""
        self._database, self._count_max = database, count_max

    async def create(
        self, owner: Owner, assistant_id: AssistantId, name: str, config: bytes, retry: Retry | None
    ) -> AssistantRecord:
        version_id, owned = uuid4(), (owner.organization_id, owner.user_id)
        async with self._database.transaction(organization_id=owner.organization_id) as connection:
            made = await claim(connection, owner, retry, version_id) if retry else version_id
            if made == version_id:
                if await connection.fetchval(COUNT, *owned) >= self._count_max:
                    raise TooManyObjects(limit="assistants", max=self._count_max)
                await connection.execute(INSERT, *owned, assistant_id, name.encode())
                await connection.execute(INSERT_VERSION, assistant_id, 1, version_id, config)
            return await _made(connection, owner, made)

    async def find(self, owner: Owner, assistant_id: AssistantId, *, version: int = 0) -> AssistantRecord:
        async with self._database.connection(organization_id=owner.organization_id) as connection:
            row = await connection.fetchrow(FIND, owner.organization_id, owner.user_id, assistant_id, version)
        if row is None:
            raise AssistantNotFound
        return _assistant(row)

    async def page(self, owner: Owner, request: PageRequest) -> Page[AssistantRecord]:
        async with self._database.connection(organization_id=owner.organization_id) as connection:
            rows = await connection.fetch(
                PAGE, owner.organization_id, owner.user_id, request.after, request.size + 1
            )
        return Page([_assistant(row) for row in rows[: request.size]], next_after(rows, request))

    async def update(
        self, owner: Owner, assistant_id: AssistantId, config: bytes, retry: Retry | None
    ) -> AssistantRecord:
        version_id, owned = uuid4(), (owner.organization_id, owner.user_id, assistant_id)
        async with self._database.transaction(organization_id=owner.organization_id) as connection:
            made = await claim(connection, owner, retry, version_id) if retry else version_id
            if made == version_id:
                version = await connection.fetchval(RAISE, *owned)
                if version is None:
                    raise AssistantNotFound
                if version > VERSIONS_MAX:
                    raise TooManyObjects(limit="versions", max=VERSIONS_MAX)
                await connection.execute(INSERT_VERSION, assistant_id, version, version_id, config)
            return await _made(connection, owner, made)

    async def delete(self, owner: Owner, assistant_id: AssistantId) -> None:
        owned = owner.organization_id, owner.user_id, assistant_id
        async with self._database.transaction(organization_id=owner.organization_id) as connection:
            await connection.execute(FORGET_REQUESTS, *owned)
            await connection.execute(DELETE, *owned)


async def _made(connection: Connection, owner: Owner, version_id: UUID) -> AssistantRecord:
    row = await connection.fetchrow(FIND_VERSION, owner.organization_id, owner.user_id, version_id)
    if row is None:
        raise AssistantNotFound  # Made by this request and deleted since.
    return _assistant(row)


def _assistant(row: asyncpg.Record) -> AssistantRecord:
    return AssistantRecord(
        assistant_id=AssistantId(row["assistant_id"]),
        version=row["version"],
        display_name=row["display_name"].decode(),
        config=row["config"],
        create_time=row["create_time"],
        update_time=row["version_time"],
    )
