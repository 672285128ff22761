"""LangGraph's checkpoints of runs in PostgreSQL: what the model reads next, whoever goes on with the run.

Ours, because the published savers need another driver and do one thing at a time behind a lock. Here a put, a write or
a read is one statement on a connection of the service's pool. Payloads are sealed (checkpoint_codec.py); in clear are
only names, versions, and of the metadata what LEGIBLE lists. A checkpoint names the versions of its channels; values
that did not change are stored once. Versions have a random end, so that a run that went on from an earlier checkpoint
never takes up a value that its lost successor wrote.

`Checkpoints(database, seals)` is made once. A run works with a view of its own:

    graph.copy({"checkpointer": checkpoints.of(organization_id, Lease(run_id, holder, fence))})
    config = {"configurable": {"thread_id": str(run_id)}}

What a view writes is written only while the lease is held: otherwise LeaseLost. A view without a lease may write
anything of its organisation; only tests and tools have use for one.
"""
# ruff: noqa: A002, ARG002 - The signatures are LangGraph's.

import copy
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self, cast

import asyncpg
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    PendingWrite,
    get_checkpoint_id,
    get_serializable_checkpoint_metadata,
)

from services.agent.adapters import checkpoint_sql as sql
from services.agent.adapters.checkpoint_codec import STRICT, Codec, Sealed, body_of
from services.agent.adapters.checkpoint_copies import copy_thread
from services.agent.core.ids import Owner, RunId, ThreadId
from services.agent.errors import CheckpointUnreadable, LeaseLost
from services.agent.leases import Lease
from services.agent.patience import Result, patiently
from services.common.postgres import Connection, Database
from services.common.seals import Seals

SEAL_PURPOSE = "checkpoints"
# Of the metadata, what is stored in clear: never content. Everything is in the sealed body as well.
LEGIBLE = frozenset({"source", "step", "run_id"})
STEPS = "step_count"  # In clear as well: how many steps the run had made.
LISTED_AT_ONCE = 50
KEEP_LATEST = "keep_latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRecord:
    """What is told of a checkpoint."""

    checkpoint_id: str
    run_id: RunId
    step_count: int
    create_time: datetime


def _no_steps() -> int:
    return 0


class Checkpoints(BaseCheckpointSaver[str]):
    """Asynchronous methods only. Raises StoreFailure, LeaseLost, CheckpointUnreadable."""

    def __init__(self, database: Database, seals: Seals, *, patience_s: float = 0.0) -> None:
        """`seals` are for SEAL_PURPOSE; `patience_s` is how long a run waits for a store that is away."""
        super().__init__(serde=STRICT)
        self._database, self._seals, self._patience_s = database, seals, patience_s
        self._organization_id = ""
        self._lease: Lease | None = None
        self._step_count: Callable[[], int] = _no_steps

    def of(
        self, organization_id: str, lease: Lease | None, *, step_count: Callable[[], int] = _no_steps
    ) -> Self:
        """A view of one organisation's checkpoints, which writes by that lease.

        `step_count` tells, whenever a checkpoint is stored, how many steps the run has made.
        """
        view = copy.copy(self)
        view._organization_id, view._lease, view._step_count = organization_id, lease, step_count  # noqa: SLF001
        return view

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> Self:
        """No type is allowed beside those that are: the state of our graph has no others."""
        return self

    def get_next_version(self, current: str | None, channel: None) -> str:
        number = int(current.split(".")[0]) if current else 0
        return f"{number + 1:08}.{secrets.token_hex(8)}"

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        place, checkpoint_id = _place(config), get_checkpoint_id(config)
        statement = sql.GET if checkpoint_id else sql.GET_LATEST
        arguments = (*place, checkpoint_id) if checkpoint_id else place

        async def read() -> asyncpg.Record | None:
            async with self._connection() as connection:
                return await connection.fetchrow(statement, *arguments)

        row = await self._patiently(read)
        return self._tuple(row) if row else None

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Newest first. No connection is held while the caller looks at one."""
        asked = config["configurable"] if config else {}
        legible = {key: value for key, value in (filter or {}).items() if key in LEGIBLE}
        which = (
            *(asked.get(name) for name in ("thread_id", "checkpoint_ns", "checkpoint_id")),
            json.dumps(legible),
            get_checkpoint_id(before) if before else None,
        )
        after: Sequence[str | None] = (None, None, None)
        left_count = limit
        while left_count is None or left_count > 0:
            async with self._connection() as connection:
                rows = await connection.fetch(sql.LIST, *which, *after, LISTED_AT_ONCE)
            for row in rows:
                found = self._tuple(row)
                if (filter or {}).items() <= found.metadata.items() and (
                    left_count is None or left_count > 0
                ):
                    left_count = None if left_count is None else left_count - 1
                    yield found
            if len(rows) < LISTED_AT_ONCE:
                return
            after = rows[-1]["checkpoint_id"], rows[-1]["thread_id"], rows[-1]["ns"]

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        thread_id, ns = place = _place(config)
        checkpoint_id, parent_id = checkpoint["id"], get_checkpoint_id(config)
        codec, values, versions = self._codec, checkpoint["channel_values"], checkpoint["channel_versions"]
        body = body_of(checkpoint, get_serializable_checkpoint_metadata(config, metadata))
        new = [channel for channel in body.blob_channels if channel in new_versions]
        blobs = [codec.seal(values[name], "blob", *place, name, str(versions[name])) for name in new]
        legible = {key: value for key, value in body.metadata.items() if key in LEGIBLE}
        await self._write(
            sql.PUT if self._lease else sql.PUT_FREELY,
            *(thread_id, ns, checkpoint_id, parent_id),
            list(body.blob_channels),
            [str(versions[channel]) for channel in body.blob_channels],
            codec.seal_body(body, *place, checkpoint_id, parent_id or ""),
            json.dumps({**legible, STEPS: self._step_count()}),
            new,
            [str(versions[channel]) for channel in new],
            [blob.kind for blob in blobs],
            [blob.payload for blob in blobs],
        )
        return _config(thread_id, ns, checkpoint_id)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        place = (*_place(config), str(get_checkpoint_id(config)))
        codec = self._codec
        channels = [channel for channel, _ in writes]
        indices = [WRITES_IDX_MAP.get(channel, place) for place, channel in enumerate(channels)]
        sealed = [
            codec.seal(value, "write", *place, task_id, task_path, str(index), channel)
            for index, (channel, value) in zip(indices, writes, strict=True)
        ]
        replaces = all(channel in WRITES_IDX_MAP for channel in channels)
        await self._write(
            sql.WRITE[self._lease is not None, replaces],
            *(*place, task_id, task_path),
            indices,
            channels,
            [write.kind for write in sealed],
            [write.payload for write in sealed],
        )

    async def adelete_thread(self, thread_id: str) -> None:
        await self._forget([thread_id])

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        async with self._connection() as connection:
            rows = await connection.fetch(sql.FORGET_RUNS, list(run_ids))
            await connection.execute(sql.SWEEP, [row["thread_id"] for row in rows])

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = KEEP_LATEST) -> None:
        if strategy != KEEP_LATEST:
            await self._forget(thread_ids)
            return
        async with self._connection() as connection:
            await connection.execute(sql.KEEP_LATEST, list(thread_ids))
            await connection.execute(sql.SWEEP, list(thread_ids))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        async with self._connection() as connection:
            await copy_thread(
                connection, self._codec, self._organization_id, source_thread_id, target_thread_id
            )

    async def page(
        self, owner: Owner, thread_id: ThreadId, *, size: int, before: str | None
    ) -> Sequence[CheckpointRecord]:
        """What can be gone on from in a thread's runs, newest first; `before` is the last id of the page before."""
        async with self._database.connection(organization_id=owner.organization_id) as connection:
            rows = await connection.fetch(
                sql.PAGE, owner.organization_id, owner.user_id, thread_id, before, size
            )
        return [
            CheckpointRecord(
                checkpoint_id=row["checkpoint_id"],
                run_id=RunId(row["run_id"]),
                step_count=json.loads(row["metadata"])[STEPS],
                create_time=row["create_time"],
            )
            for row in rows
        ]

    @property
    def _codec(self) -> Codec:
        return Codec(self._seals, self._organization_id)

    def _connection(self) -> AbstractAsyncContextManager[Connection]:
        """In a transaction, which sees the organisation's rows alone."""
        return self._database.transaction(organization_id=self._organization_id)

    async def _write(self, statement: str, *arguments: object) -> None:
        lease = self._lease
        by = (lease.run_id, lease.holder, lease.fence) if lease else (None, None, None)

        async def write() -> None:
            async with self._connection() as connection:
                if not await connection.fetchval(statement, *by, self._organization_id, *arguments):
                    raise LeaseLost

        await self._patiently(write)

    async def _patiently(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        return await patiently(attempt, for_s=self._patience_s) if self._patience_s else await attempt()

    async def _forget(self, thread_ids: Sequence[str]) -> None:
        async with self._connection() as connection:
            for statement in sql.FORGET:
                await connection.execute(statement, list(thread_ids))

    def _tuple(self, row: asyncpg.Record) -> CheckpointTuple:
        codec = self._codec
        thread_id, ns, checkpoint_id, parent_id, payload, blobs, writes = row
        body = codec.open_body(payload, thread_id, ns, checkpoint_id, parent_id or "")
        values, versions = body.checkpoint["channel_values"], body.checkpoint["channel_versions"]
        for channel, kind, blob in blobs or ():
            version = str(versions[channel])
            values[channel] = codec.open(Sealed(kind, blob), "blob", thread_id, ns, channel, version)
        if not values.keys() >= set(body.blob_channels):
            raise CheckpointUnreadable  # A run would go on without what it knew.
        return CheckpointTuple(
            config=_config(thread_id, ns, checkpoint_id),
            checkpoint=cast("Checkpoint", body.checkpoint),
            metadata=cast("CheckpointMetadata", body.metadata),
            parent_config=_config(thread_id, ns, parent_id) if parent_id else None,
            pending_writes=[
                self._pending(codec, (thread_id, ns, checkpoint_id), write) for write in writes or ()
            ],
        )

    @staticmethod
    def _pending(codec: Codec, place: tuple[str, str, str], write: Sequence[Any]) -> PendingWrite:
        task_id, task_path, index, channel, kind, blob = write
        value = codec.open(Sealed(kind, blob), "write", *place, task_id, task_path, str(index), channel)
        return task_id, channel, value


def _place(config: RunnableConfig) -> tuple[str, str]:
    asked = config["configurable"]
    return asked["thread_id"], asked.get("checkpoint_ns", "")


def _config(thread_id: str, ns: str, checkpoint_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}}
