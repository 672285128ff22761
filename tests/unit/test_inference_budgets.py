"""Budgets in a process: what is admitted without asking, what is told, and what happens while auth is away."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from prometheus_client import CollectorRegistry

from services.inference import budgets as shell
from services.inference.budget_metrics import BudgetMetrics
from services.inference.budgets import Budgets, Hold, WhenAway
from services.inference.core.accounting import Entry
from services.inference.core.admission import Order
from services.inference.core.asks import Generate
from services.inference.core.callers import Principal
from services.inference.core.secret_names import Names
from services.inference.errors import QuotaExceeded, QuotaUnavailable
from services.inference.streams_at_once import StreamsAtOnce
from tests.fakes.bank import FakeBank

ANN = Principal(organization_id="org-1", project_id="p", user_id="ann")


@asynccontextmanager
async def opened(bank: FakeBank, when_away: WhenAway = WhenAway.OPEN) -> AsyncIterator[Budgets]:
    """Running, with all that runs beside it."""
    names = Names("s" * 32, purpose="quotas")
    at_once = StreamsAtOnce(None, names, process_id="one", share_count=1)
    budgets = Budgets(bank, at_once, BudgetMetrics(CollectorRegistry()), when_away=when_away)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(run(), name=name) for name, run in budgets.background()]
        try:
            yield budgets
        finally:
            for task in running:
                task.cancel()
    await budgets.close()


def order(tokens: int) -> Order:
    """One that may cost so many, prompt and answer."""
    ask = Generate(model="tiny", prompt="x")
    return Order(
        ask=ask, model="tiny", options={}, keep_alive_s=0, prompt_token_count=tokens - 1, output_token_max=1
    )


async def hold(budgets: Budgets, tokens: int, who: Principal = ANN) -> Hold:
    return await budgets.hold(who, order(tokens), is_stream=True)


def end(budgets: Budgets, held: Hold, tokens: int, who: Principal = ANN) -> None:
    budgets.used(
        Entry(
            entry_id=uuid4(),
            created_at=dt.datetime.now(dt.UTC),
            stream_id="",
            principal=who,
            model="tiny",
            operation="chat",
            prompt_token_count=tokens,
        )
    )
    held.release()


async def test_requests_do_not_wait_for_the_ledger() -> None:
    bank = FakeBank(limit=1_000_000)
    async with opened(bank) as budgets:
        end(budgets, await hold(budgets, 1000), 1000)
        bank.gate = asyncio.Event()  # From here on it does not answer.
        for _ in range(5):
            async with asyncio.timeout(30):
                end(budgets, await hold(budgets, 10), 10)
        bank.gate.set()
    assert bank.used == 1050
    assert bank.held == 0


async def test_what_is_unlimited_is_told_and_never_refused() -> None:
    bank = FakeBank()
    async with opened(bank) as budgets:
        for _ in range(20):
            end(budgets, await hold(budgets, 50), 40)
        assert bank.asked.count("reserve") == 1
    assert bank.used == 800


async def test_nothing_is_overspent_and_all_of_it_can_be_spent() -> None:
    bank, spent = FakeBank(limit=1000), 0
    async with opened(bank) as budgets:

        async def spend() -> None:
            nonlocal spent
            while True:
                end(budgets, await hold(budgets, 10), 10)
                spent += 10

        with pytest.raises(QuotaExceeded) as refused:
            await spend()
        assert refused.value.facts == {"quota": "project.tokens_per_day", "limit": "1000"}
        assert refused.value.retry_after_s == 60.0
    assert bank.used == spent == 1000


async def test_processes_that_share_a_budget_never_overspend_it() -> None:
    bank, spent = FakeBank(limit=2000), 0
    async with opened(bank) as one, opened(bank) as two:

        async def spend(budgets: Budgets) -> None:
            nonlocal spent
            while True:
                try:
                    held = await hold(budgets, 10)
                except QuotaExceeded:
                    return
                await asyncio.sleep(0)
                end(budgets, held, 10)
                spent += 10

        await asyncio.gather(*(spend(budgets) for budgets in (one, two) for _ in range(5)))
    assert bank.used == spent
    # Not all of it: who holds the last of it may not be who asks for more. What is idle comes back later.
    assert 2000 * 0.8 <= spent <= 2000


async def test_what_was_admitted_counts_while_it_lasts() -> None:
    bank = FakeBank(limit=100)
    async with opened(bank) as budgets:
        first = await hold(budgets, 60)
        with pytest.raises(QuotaExceeded):
            await hold(budgets, 60)
        end(budgets, first, 95)  # More than was estimated: it ended all the same.
        with pytest.raises(QuotaExceeded):
            await hold(budgets, 60)
        await asyncio.sleep(shell.REFUSED_S_MAX)
        end(budgets, await hold(budgets, 5), 5)
    assert bank.used == 100


async def test_a_refusal_is_remembered_for_a_moment() -> None:
    bank = FakeBank(limit=10)
    async with opened(bank) as budgets:
        for _ in range(50):
            with pytest.raises(QuotaExceeded):
                await hold(budgets, 11)
        assert len(bank.asked) <= 2


async def test_those_who_come_at_once_ask_once() -> None:
    bank = FakeBank()
    async with opened(bank) as budgets:
        for held in await asyncio.gather(*(hold(budgets, 10) for _ in range(50))):
            end(budgets, held, 10)
        assert bank.asked.count("reserve") == 1


async def test_while_auth_is_away_what_is_used_is_owed_and_told_later() -> None:
    bank = FakeBank(limit=1000, is_away=True)
    async with opened(bank) as budgets:
        for _ in range(10):
            end(budgets, await hold(budgets, 30), 30)
        assert bank.asked == ["reserve"]  # Nobody waits for who is away.
        bank.is_away = False
    assert bank.used == 300


async def test_closed_means_that_nobody_is_served_beyond_their_slice() -> None:
    bank = FakeBank(limit=10_000)
    async with opened(bank, WhenAway.CLOSED) as budgets:
        end(budgets, await hold(budgets, 100), 10)
        bank.is_away = True
        end(budgets, await hold(budgets, 100), 10)  # From the slice.
        with pytest.raises(QuotaUnavailable):
            await hold(budgets, 5000)
        with pytest.raises(QuotaUnavailable):
            await hold(budgets, 1, Principal(organization_id="org-2", project_id="p", user_id="b"))
        bank.is_away = False
    assert bank.used == 20


async def test_an_auth_that_hangs_costs_one_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "ASK_S_MAX", 0.05)
    bank = FakeBank(gate=asyncio.Event())
    async with opened(bank) as budgets:
        for _ in range(20):
            end(budgets, await hold(budgets, 10), 10)
        assert len(bank.asked) == 1
        assert bank.gate is not None
        bank.gate.set()
    assert bank.used == 200


async def test_a_new_day_begins_with_a_new_reservation(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = FakeBank(limit=100)
    async with opened(bank) as budgets:
        held = await hold(budgets, 100)
        bank.day = 1
        end(budgets, held, 100)
        end(budgets, await hold(budgets, 50), 50)
    by_day = {one.day: one.used for one in bank.known.values()}
    assert by_day == {0: 100, 1: 50}


async def test_what_is_not_known_any_more_is_reserved_anew() -> None:
    bank = FakeBank(limit=1000)
    async with opened(bank) as budgets:
        end(budgets, await hold(budgets, 10), 10)
        bank.known.clear()
        end(budgets, await hold(budgets, 500), 500)
    assert bank.used == 510


async def test_who_asks_for_more_than_there_is_keeps_nothing_from_others() -> None:
    bank = FakeBank(limit=1000)
    bob = Principal(organization_id="org-1", project_id="p2", user_id="b")
    async with opened(bank) as budgets:
        first = await hold(budgets, 10)
        for _ in range(2):
            with pytest.raises(QuotaExceeded):
                await hold(budgets, 5000)
        assert bank.held < 200
        (await hold(budgets, 800, bob)).release()
        first.release()


async def test_a_burst_at_the_end_of_a_budget_is_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each who waits asks for little: many questions in a row are not one that hangs."""
    monkeypatch.setattr(shell, "ASK_S_MAX", 1.0)  # Of a bank that answers in a thirtieth of it.
    monkeypatch.setattr(shell, "WAIT_S_MAX", 60.0)
    monkeypatch.setattr(
        shell, "SETTLE_EVERY_S", 0.02
    )  # So that what is told in the background waits in turn too.
    bank = FakeBank(limit=10_000, delay_s=0.03)
    async with opened(bank) as budgets:
        end(budgets, await hold(budgets, 1), 1)
        outcomes = await asyncio.gather(*(hold(budgets, 30) for _ in range(500)), return_exceptions=True)
        admitted = [each for each in outcomes if isinstance(each, shell.Hold)]
        assert 250 <= len(admitted) <= 10_000 // 30
        assert budgets._away_until_s == 0.0
        for each in admitted:
            each.release()


async def test_an_idle_slice_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "IDLE_S", 0.05)
    monkeypatch.setattr(shell, "SETTLE_EVERY_S", 0.05)
    bank = FakeBank(limit=1000)
    async with opened(bank) as budgets:
        end(budgets, await hold(budgets, 100), 10)
        async with asyncio.timeout(10):
            while bank.held or budgets._kept:
                await asyncio.sleep(0.01)
        assert bank.used == 10


async def test_who_comes_while_a_slice_is_given_back_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shell, "IDLE_S", 0.2)
    monkeypatch.setattr(shell, "SETTLE_EVERY_S", 0.05)
    bank = FakeBank(limit=1000)
    async with opened(bank) as budgets, asyncio.timeout(10):
        end(budgets, await hold(budgets, 100), 10)
        while bank.used != 10:
            await asyncio.sleep(0.01)
        bank.gate, asked_count = asyncio.Event(), len(bank.asked)
        while len(bank.asked) == asked_count:  # Until it is being given back.
            await asyncio.sleep(0.01)
        coming = asyncio.create_task(hold(budgets, 100))
        await asyncio.sleep(0)
        bank.gate.set()
        end(budgets, await coming, 20)
        while bank.held or budgets._kept:
            await asyncio.sleep(0.01)
        assert bank.used == 30


async def test_items_are_charged_once_and_not_at_all_if_there_is_no_batch() -> None:
    bank = FakeBank(items_max=10)
    async with opened(bank) as budgets:
        async with budgets.charged_items(ANN, 6, name="one") as charge:
            charge()
        with pytest.raises(KeyError):
            async with budgets.charged_items(ANN, 4, name="two"):
                raise KeyError
        assert bank.items == 6
        with pytest.raises(QuotaExceeded) as refused:
            async with budgets.charged_items(ANN, 5, name="three"):
                """Is not reached."""
        assert refused.value.facts["quota"] == "project.batch_items_per_day"


async def test_streams_at_once_are_bounded() -> None:
    bank = FakeBank(stream_limits={"project": 2, "organization": 3})
    other = Principal(organization_id="org-1", project_id="q", user_id="ann")
    async with opened(bank) as budgets:
        first, _ = await hold(budgets, 1), await hold(budgets, 1)
        with pytest.raises(QuotaExceeded) as refused:
            await hold(budgets, 1)
        assert refused.value.facts == {"quota": "project.concurrent_stream_count", "limit": "2"}
        await hold(budgets, 1, other)
        with pytest.raises(QuotaExceeded) as refused:
            await hold(budgets, 1, other)
        assert refused.value.facts == {"quota": "organization.concurrent_stream_count", "limit": "3"}
        first.release()
        first.release()
        await hold(budgets, 1, other)
