"""The usage ledger's writer: never waits, never loses more than it says."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from prometheus_client import CollectorRegistry

from services.common.errors import StoreBusy, StoreUnavailable
from services.inference import accounts as module
from services.inference.account_metrics import AccountMetrics
from services.inference.accounts import BATCH_MAX, Accounts
from tests.fakes.usage_book import FakeBook, entry

WITHIN_S = 20.0
BACKLOG_MAX = 1200


class Rig:
    """A writer over a fake ledger, and what it has counted."""

    def __init__(self, book: FakeBook, registry: CollectorRegistry, accounts: Accounts) -> None:
        self.book, self.registry, self.accounts = book, registry, accounts

    def counted(self, outcome: str) -> float:
        return self.registry.get_sample_value("ollamesh_usage_entries_total", {"outcome": outcome}) or 0.0

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not holds():
                await asyncio.sleep(0.001)


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(module, "WRITE_EVERY_S", 0.02)
    monkeypatch.setattr("services.inference.core.backlog.FIRST_DELAY_S", 0.01)
    monkeypatch.setattr("services.inference.core.backlog.LONGEST_DELAY_S", 0.02)
    monkeypatch.setattr(module, "WRITE_AT_END_S_MAX", 0.2)
    book, registry = FakeBook(), CollectorRegistry()
    async with Accounts.opened(
        book, AccountMetrics(registry), backlog_max=BACKLOG_MAX, kept_days=400
    ) as accounts:
        running = asyncio.create_task(accounts.run())
        try:
            yield Rig(book, registry, accounts)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_entries_are_written_together_and_soon(rig: Rig) -> None:
    for _ in range(10):
        rig.accounts.record(entry())
    await rig.until(lambda: len(rig.book.entries) == 10)
    assert rig.book.batch_sizes == [10]
    assert rig.counted("written") == 10


async def test_a_full_batch_does_not_wait(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITE_EVERY_S", 3600.0)
    for _ in range(2 * BATCH_MAX + 1):
        rig.accounts.record(entry())
    await rig.until(lambda: len(rig.book.entries) == 2 * BATCH_MAX)
    assert rig.book.batch_sizes == [BATCH_MAX, BATCH_MAX]


@pytest.mark.parametrize("failure", [StoreUnavailable(), StoreBusy()])
async def test_what_could_not_be_written_is_written_later(rig: Rig, failure: Exception) -> None:
    rig.book.failures = [failure] * 3
    rig.accounts.record(entry())
    await rig.until(lambda: len(rig.book.entries) == 1)
    assert (rig.counted("written"), rig.counted("lost")) == (1, 0)


async def test_what_was_written_without_a_reply_counts_once(rig: Rig) -> None:
    rig.book.loses_replies = True
    made = [entry() for _ in range(5)]
    for each in made:
        rig.accounts.record(each)
    await rig.until(lambda: len(rig.book.entries) == 5)
    rig.book.loses_replies = False
    await rig.until(lambda: rig.counted("written") == 5)
    assert list(rig.book.entries.values()) == made


async def test_a_store_that_is_away_for_long_costs_the_oldest(rig: Rig) -> None:
    rig.book.down = True
    made = [entry() for _ in range(BACKLOG_MAX + 7)]
    for each in made:
        rig.accounts.record(each)
    assert rig.counted("lost") == 7
    await rig.until(lambda: rig.registry.get_sample_value("ollamesh_usage_backlog") == BACKLOG_MAX)
    rig.book.down = False
    await rig.until(lambda: len(rig.book.entries) == BACKLOG_MAX)
    assert list(rig.book.entries.values()) == made[7:]
    await rig.until(lambda: rig.registry.get_sample_value("ollamesh_usage_backlog") == 0)


async def test_a_bug_costs_its_batch_and_nothing_after_it(rig: Rig) -> None:
    rig.book.failures = [ValueError("a bug")]
    rig.accounts.record(entry())
    await rig.until(lambda: rig.counted("lost") == 1)
    rig.accounts.record(entry())
    await rig.until(lambda: len(rig.book.entries) == 1)


async def test_recording_does_not_wait_for_a_store_that_hangs(rig: Rig) -> None:
    rig.book.gate.clear()
    rig.accounts.record(entry())
    await asyncio.sleep(0.05)  # It is being written, and hangs.
    for _ in range(100):
        rig.accounts.record(entry())
    rig.book.gate.set()
    await rig.until(lambda: len(rig.book.entries) == 101)


@pytest.mark.parametrize("hangs", [False, True])
async def test_the_end_writes_what_is_left(monkeypatch: pytest.MonkeyPatch, *, hangs: bool) -> None:
    """Also a batch whose writing the end interrupts."""
    monkeypatch.setattr(module, "WRITE_EVERY_S", 0.0)
    book = FakeBook()
    metrics = AccountMetrics(CollectorRegistry())
    async with Accounts.opened(book, metrics, backlog_max=BACKLOG_MAX, kept_days=400) as accounts:
        running = asyncio.create_task(accounts.run())
        if hangs:
            book.gate.clear()
        for _ in range(BATCH_MAX + 100):
            accounts.record(entry())
        await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        book.gate.set()
    assert len(book.entries) == BATCH_MAX + 100


async def test_the_end_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITE_AT_END_S_MAX", 0.05)
    book, registry = FakeBook(), CollectorRegistry()
    book.down = True
    async with asyncio.timeout(WITHIN_S):
        async with Accounts.opened(
            book, AccountMetrics(registry), backlog_max=BACKLOG_MAX, kept_days=400
        ) as accounts:
            accounts.record(entry())
    assert registry.get_sample_value("ollamesh_usage_entries_total", {"outcome": "lost"}) == 1


async def test_partitions_are_kept_and_tried_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_AGAIN_S", 0.01)
    monkeypatch.setattr(module, "KEEP_EVERY_S", 0.01)
    rig.book.down = True
    keeping = asyncio.create_task(rig.accounts.keep())
    await asyncio.sleep(0.03)
    rig.book.down = False
    await rig.until(lambda: len(rig.book.kept) >= 2)
    assert rig.book.kept[0] == (module.AHEAD_DAYS, 400)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
