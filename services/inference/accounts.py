"""The usage ledger, as the service has it: entries are taken at once and written a little later.

Whoever records an entry never waits. What is recorded is written within half a second, in batches; while the store
is away it waits in a bounded backlog (core/backlog.py). A process that ends in order writes all of it first; one that
is killed loses what it recorded in its last second.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress

import structlog

from services.common.errors import InvalidRequest, NotServed, StoreFailure, Violation
from services.inference.account_metrics import AccountMetrics
from services.inference.core.accounting import Entry, Line, Question
from services.inference.core.backlog import Backlog
from services.inference.ports import UsageBook

WRITE_EVERY_S = 0.5
BATCH_MAX = 500  # A full one is written at once.
WRITE_AT_END_S_MAX = 5.0  # For all that is left when the service ends.
LINES_MAX = 10_000
AHEAD_DAYS = 7
KEEP_EVERY_S = 3600.0
KEEP_AGAIN_S = 30.0

log = structlog.get_logger(__name__)


class Accounts:
    """What was used: recorded by streams, written by `run`, told by `used`."""

    def __init__(self, book: UsageBook, metrics: AccountMetrics, *, backlog_max: int, kept_days: int) -> None:
        self._book = book
        self._metrics = metrics
        self._backlog = Backlog(entries_max=backlog_max)
        self._kept_days = kept_days
        self._some = asyncio.Event()  # There is something to write,
        self._batch = asyncio.Event()  # and enough not to wait for more.

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, book: UsageBook, metrics: AccountMetrics, *, backlog_max: int, kept_days: int
    ) -> AsyncIterator["Accounts"]:
        """Accounts that are written to the last entry when the block ends; by then `run` must have ended."""
        accounts = cls(book, metrics, backlog_max=backlog_max, kept_days=kept_days)
        try:
            yield accounts
        finally:
            await accounts._close()

    def background(self) -> list[tuple[str, Callable[[], Coroutine[None, None, None]]]]:
        """What must run meanwhile."""
        return [("usage", self.run), ("usage partitions", self.keep)]

    def record(self, entry: Entry) -> None:
        """Take an entry. Never waits and never fails."""
        if lost_count := self._backlog.add(entry):
            self._metrics.lost(lost_count)
        self._some.set()
        if self._backlog.waiting_count >= BATCH_MAX:
            self._batch.set()

    async def used(self, question: Question) -> Sequence[Line]:
        """Add up what was used. Raises InvalidRequest and StoreFailure."""
        lines = await self._book.read(question, lines_max=LINES_MAX + 1)
        if len(lines) > LINES_MAX:
            text = f"tells apart more than {LINES_MAX:,} lines: ask for less time or fewer dimensions"
            raise InvalidRequest([Violation("group_by", text, "usage.lines")])
        return lines

    async def run(self) -> None:
        """Write what is recorded, until cancelled."""
        while True:
            await self._some.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(WRITE_EVERY_S):
                    await self._batch.wait()
            await self._write_batch()

    async def keep(self) -> None:
        """Make the partitions of days to come and drop those of days long past, until cancelled."""
        while True:
            wait_s = KEEP_EVERY_S
            try:
                made, dropped = await self._book.keep(ahead_days=AHEAD_DAYS, kept_days=self._kept_days)
            except StoreFailure:
                wait_s = KEEP_AGAIN_S  # Meanwhile, rows find the default partition.
            else:
                if made or dropped:
                    log.info("usage_partitions", made=made, dropped=dropped)
            await asyncio.sleep(wait_s)

    async def _write_batch(self) -> None:
        batch = self._backlog.take(BATCH_MAX)
        try:
            await self._book.write(batch)
        except StoreFailure:
            self._put_back()
            await asyncio.sleep(self._backlog.delay_s)
            return
        except asyncio.CancelledError:
            self._put_back()  # It may have been written: then writing it again adds nothing.
            raise
        except Exception:  # A bug of ours costs this batch, and neither streams nor what comes after it.
            log.exception("bug", method="write usage")
            self._metrics.lost(len(batch))
        else:
            self._metrics.written(len(batch))
        self._backlog.written()
        self._look()

    def _put_back(self) -> None:
        self._backlog.put_back()
        self._look()

    def _look(self) -> None:
        """Say anew whether there is something to write, and enough."""
        count = self._backlog.waiting_count
        self._metrics.waiting(count)
        for event, holds in ((self._some, count > 0), (self._batch, count >= BATCH_MAX)):
            if holds:
                event.set()
            else:
                event.clear()

    async def _close(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(WRITE_AT_END_S_MAX):
                while len(self._backlog):
                    await self._write_batch()
        if left_count := len(self._backlog):
            log.error("usage_lost", entries=left_count)
            self._metrics.lost(left_count)


class NoAccounts:
    """Without a database: nothing is written down, and there is nothing to tell."""

    def background(self) -> list[tuple[str, Callable[[], Coroutine[None, None, None]]]]:
        return []

    def record(self, entry: Entry) -> None:
        """Forget it."""

    async def used(self, question: Question) -> Sequence[Line]:  # noqa: ARG002 - As that of Accounts.
        raise NotServed(needs="DATABASE_URL")
