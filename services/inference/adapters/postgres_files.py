"""Uploaded files in PostgreSQL: in parts, so that neither side ever has to hold one as a whole."""

from collections.abc import Sequence
from uuid import UUID

import asyncpg

from services.common.postgres import Database
from services.inference.adapters.postgres_batches import INSERT_S_MAX, LAST_POSITION
from services.inference.batches.ports import FileRecord, NewFile
from services.inference.core.callers import Principal
from services.inference.errors import FileNotFound, QuotaExceeded

QUOTA_RETRY_S = 60.0

LOCK_ORGANIZATION = "SELECT pg_advisory_xact_lock(hashtextextended('files of ' || $1, 0))"
STORED_BYTES = """
    SELECT coalesce(sum(size_bytes), 0)::bigint FROM files WHERE organization_id = $1 AND expire_time > now()
"""
INSERT = """
    INSERT INTO files (file_id, organization_id, user_id, filename, size_bytes, expire_time)
    VALUES ($1, $2, $3, $4, $5, now() + $6::float8 * interval '1 second')
    RETURNING *
"""
FIND = """
    SELECT * FROM files
    WHERE file_id = $1 AND organization_id = $2 AND user_id = $3 AND expire_time > now()
"""
PAGE = """
    SELECT * FROM files
    WHERE organization_id = $1 AND user_id = $2 AND position < $3 AND expire_time > now()
    ORDER BY position DESC LIMIT $4
"""
DELETE = "DELETE FROM files WHERE file_id = $1 AND organization_id = $2 AND user_id = $3 RETURNING file_id"
INSERT_PART = "INSERT INTO file_parts (file_id, part_index, content) VALUES ($1, $2, $3)"
PART = "SELECT content FROM file_parts WHERE file_id = $1 AND part_index = $2"


class PostgresFiles:
    """Implements batches.ports.Files."""

    def __init__(self, database: Database, *, bytes_max: int, kept_s: float) -> None:
        """`bytes_max` bounds what one organisation has stored."""
        self._database = database
        self._bytes_max = bytes_max
        self._kept_s = kept_s

    async def create(self, owner: Principal, new: NewFile) -> FileRecord:
        size_bytes = sum(map(len, new.parts))
        async with self._database.transaction(organization_id=owner.organization_id) as connection:
            await connection.execute(LOCK_ORGANIZATION, owner.organization_id)
            stored_bytes = await connection.fetchval(STORED_BYTES, owner.organization_id)
            if stored_bytes + size_bytes > self._bytes_max:
                raise QuotaExceeded(quota="file_bytes", limit=self._bytes_max, retry_after_s=QUOTA_RETRY_S)
            owned = owner.organization_id, owner.user_id
            row = await connection.fetchrow(
                INSERT, new.file_id, *owned, new.filename.encode(), size_bytes, self._kept_s
            )
            parts = ((new.file_id, index, part) for index, part in enumerate(new.parts))
            await connection.executemany(INSERT_PART, parts, timeout=INSERT_S_MAX)
        assert row is not None
        return _record(row)

    async def find(self, owner: Principal, file_id: UUID) -> FileRecord:
        async with self._database.connection(organization_id=owner.organization_id) as connection:
            row = await connection.fetchrow(FIND, file_id, owner.organization_id, owner.user_id)
        if row is None:
            raise FileNotFound
        return _record(row)

    async def page(
        self, owner: Principal, *, before: int | None, size: int
    ) -> tuple[Sequence[FileRecord], bool]:
        position = LAST_POSITION if before is None else before
        async with self._database.connection(organization_id=owner.organization_id) as connection:
            rows = await connection.fetch(PAGE, owner.organization_id, owner.user_id, position, size + 1)
        return [_record(row) for row in rows[:size]], len(rows) > size

    async def part(self, file_id: UUID, index: int) -> bytes | None:
        async with self._database.connection(system=True) as connection:
            content: bytes | None = await connection.fetchval(PART, file_id, index)
        return content

    async def delete(self, owner: Principal, file_id: UUID) -> None:
        async with self._database.connection(organization_id=owner.organization_id) as connection:
            if await connection.fetchval(DELETE, file_id, owner.organization_id, owner.user_id) is None:
                raise FileNotFound


def _record(row: asyncpg.Record) -> FileRecord:
    return FileRecord(
        file_id=row["file_id"],
        position=row["position"],
        filename=row["filename"].decode(),
        size_bytes=row["size_bytes"],
        create_time=row["create_time"],
        expire_time=row["expire_time"],
    )
