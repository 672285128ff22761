"""Group commit: everything that waits to be appended is appended in one transaction, while the next gathers.

Whoever appends waits for its own events only. A delivery that the store cannot take because of what it holds is alone with
its failure.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from services.auth.adapters.postgres_audit import PostgresAudit
from services.common.auditing.records import Record
from services.common.beside import beside
from services.common.errors import StoreBusy, StoreFailure

log = structlog.get_logger(__name__)

GROUP_MAX = 2000  # Events in one transaction: some tenths of a second's work for the store.
HELD_MAX = 20_000  # Events that wait.


@dataclass(frozen=True, slots=True, eq=False)
class _Delivery:
    records: Sequence[Record]
    appended: asyncio.Future[int]


class AuditAppender:
    def __init__(self, store: PostgresAudit) -> None:
        self._store = store
        self._deliveries: deque[_Delivery] = deque()
        self._held_count = 0
        self._some = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def opened(cls, store: PostgresAudit) -> AsyncIterator["AuditAppender"]:
        appender = cls(store)
        async with beside(appender.run(), name="audit appender"):
            yield appender

    async def append(self, records: Sequence[Record]) -> int:
        """Return once they are part of the chain, with the sequence of its last event. Raises StoreFailure."""
        if self._held_count + len(records) > HELD_MAX:
            raise StoreBusy
        delivery = _Delivery(records, asyncio.get_running_loop().create_future())
        self._deliveries.append(delivery)
        self._held_count += len(records)
        self._some.set()
        return await delivery.appended

    async def run(self) -> None:
        while True:
            await self._some.wait()
            group = self._take()
            try:
                last = await self._store.append([record for each in group for record in each.records])
            except StoreFailure as error:
                _fail(group, error)
            except Exception as error:  # One of them holds what the store will never take.
                log.exception("bug", method="append audit events")
                await self._append_singly(group, error)
            else:
                _succeed(group, last)

    def _take(self) -> list[_Delivery]:
        group = [self._deliveries.popleft()]
        count = len(group[0].records)
        while self._deliveries and count + len(self._deliveries[0].records) <= GROUP_MAX:
            group.append(self._deliveries.popleft())
            count += len(group[-1].records)
        self._held_count -= count
        if not self._deliveries:
            self._some.clear()
        return group

    async def _append_singly(self, group: list[_Delivery], error: Exception) -> None:
        if len(group) == 1:
            _fail(group, error)
            return
        for each in group:
            try:
                _succeed([each], await self._store.append(each.records))
            except Exception as own:  # noqa: BLE001 - It is told to whoever waits.
                _fail([each], own)


def _succeed(group: list[_Delivery], last_sequence: int) -> None:
    for each in group:
        if not each.appended.done():  # Whoever waited may have left.
            each.appended.set_result(last_sequence)


def _fail(group: list[_Delivery], error: Exception) -> None:
    for each in group:
        if not each.appended.done():
            each.appended.set_exception(error)
