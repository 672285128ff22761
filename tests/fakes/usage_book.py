"""The usage ledger in memory: whatever fails, fails as PostgreSQL's does."""

import asyncio
import datetime as dt
from collections.abc import Sequence
from uuid import UUID, uuid4

from services.common.errors import StoreUnavailable
from services.inference.core.accounting import Entry, Line, Question
from services.inference.core.callers import Principal

PRINCIPAL = Principal(organization_id="org-1", project_id="project-1", user_id="user-1")


def entry(**more: object) -> Entry:
    usual: dict[str, object] = {
        "entry_id": uuid4(),
        "created_at": dt.datetime.now(dt.UTC),
        "stream_id": "s",
        "principal": PRINCIPAL,
        "model": "tiny:latest",
        "operation": "chat",
    }
    return Entry(**{**usual, **more})  # type: ignore[arg-type]


class FakeBook:
    def __init__(self) -> None:
        self.entries: dict[tuple[UUID, dt.datetime], Entry] = {}
        self.batch_sizes: list[int] = []
        self.failures: list[Exception] = []  # Of the next writes, each once.
        self.down = False
        self.loses_replies = False  # What is written is not confirmed.
        self.gate = asyncio.Event()  # Closed, every write waits.
        self.gate.set()
        self.kept: list[tuple[int, int]] = []

    async def write(self, entries: Sequence[Entry]) -> None:
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        if self.down:
            raise StoreUnavailable
        self.entries |= {(each.entry_id, each.created_at): each for each in entries}
        if self.loses_replies:
            raise StoreUnavailable
        self.batch_sizes.append(len(entries))

    async def read(self, question: Question, *, lines_max: int) -> Sequence[Line]:
        raise NotImplementedError

    async def keep(self, *, ahead_days: int, kept_days: int) -> tuple[int, int]:
        if self.down:
            raise StoreUnavailable
        self.kept.append((ahead_days, kept_days))
        return 0, 0
