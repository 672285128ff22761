"""Batches in a real PostgreSQL, as a replica has them, for tests."""

import datetime as dt
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4, uuid5

import asyncpg

from services.common.postgres import Database
from services.inference.adapters.postgres_batch_items import PostgresBatchItems
from services.inference.adapters.postgres_batches import PostgresBatches
from services.inference.batches.ports import Creator, Done, Held, NewBatch, Record, Retry
from services.inference.core.accounting import Entry
from services.inference.core.callers import Principal

ANN = Principal(organization_id="org-1", project_id="project-1", user_id="ann")
BOB = Principal(organization_id="org-1", project_id="project-1", user_id="bob")
OTHER_ANN = Principal(organization_id="org-2", project_id="project-1", user_id="ann")
LEASE_S = 60.0


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica's view of the store."""

    batches: PostgresBatches
    items: PostgresBatchItems

    async def batch(self, count: int = 3, owner: Principal = ANN, **more: Any) -> Record:
        """Accept a batch of so many items."""
        return await self.batches.create(new(count, owner, **more))

    async def take_all(self, batch_id: UUID, count_max: int = 1000) -> Sequence[Held]:
        return await self.items.take(batch_id, count_max=count_max)


@asynccontextmanager
async def replica(dsn: str, *, lease_s: float = LEASE_S, open_max: int = 100) -> AsyncIterator[Replica]:
    async with Database.connect(dsn, connections_max=8) as database:
        yield Replica(
            PostgresBatches(database, open_max=open_max), PostgresBatchItems(database, lease_s=lease_s)
        )


def new(count: int = 3, owner: Principal = ANN, **more: Any) -> NewBatch:
    usual: dict[str, Any] = {
        "batch_id": uuid4(),
        "creator": Creator(principal=owner, roles=("user",)),
        "items": [b"item %d" % index for index in range(count)],
        "window_s": 3600.0,
        "retention_s": 7200.0,
    }
    return NewBatch(**(usual | more))


def retry(request_id: str = "once", body: bytes = b"1") -> Retry:
    return Retry(request_id=request_id, body_hash=body)


def done(
    held: Held, *, succeeded: bool = True, payload: bytes = b"answer", entry: Entry | None = None
) -> Done:
    return Done(held=held, succeeded=succeeded, payload=payload, entry=entry)


def entry(batch_id: UUID, index: int) -> Entry:
    """What an item is charged."""
    return Entry(
        entry_id=uuid5(batch_id, str(index)),
        created_at=dt.datetime.now(dt.UTC),
        stream_id="",
        principal=ANN,
        model="tiny",
        operation="chat",
        output_token_count=7,
    )


def indexes(held: Iterable[Held]) -> list[int]:
    return sorted(one.place.item_index for one in held)


async def execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn, server_settings={"ollamesh.system": "on"})
    await connection.execute(statement)
    await connection.close()


async def fetch(dsn: str, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn, server_settings={"ollamesh.system": "on"})
    rows = await connection.fetch(statement)
    await connection.close()
    return list(rows)


async def lapse(dsn: str) -> None:
    """Have every lease pass."""
    await execute(
        dsn, "UPDATE batch_items SET due_time = now() - interval '1 second' WHERE attempt_count > 0"
    )
