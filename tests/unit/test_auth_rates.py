"""What rates mean as windows, and who counts when Redis does not."""

import asyncio
import math
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from services.auth import rates as shell
from services.auth.adapters.limits_counters import LimitsCounter
from services.auth.core.quotas import Account, Kind, Limits, Subject
from services.auth.core.rates import Window, share, window
from services.auth.quota_metrics import QuotaMetrics
from services.auth.rate_ports import CounterAway
from services.auth.rates import Fits, Over, Rates
from services.common.errors import StoreUnavailable
from tests.fakes.quota_ledger import FakeLedger

ACCOUNT = Account(organization_id="org", project_id="p", api_key_id="k")
PROJECT = Subject(Kind.PROJECT, "org", "p")
KEY = Subject(Kind.API_KEY, "org", "k")


@given(st.floats(0.01, 100_000), st.none() | st.integers(0, 1_000_000))
def test_a_window_has_the_rate_and_at_least_the_burst(rate: float, burst: int | None) -> None:
    found = window(Limits(requests_per_second=rate, request_burst_count=burst))
    assert found is not None
    assert found.count >= 1
    assert abs(found.count - rate * found.seconds) <= max(0.5, 1 - rate * found.seconds)
    assert found.count + 0.5 >= min(burst or 0, rate * found.seconds)
    assert found.seconds <= max(1, math.ceil(1 / rate), math.ceil((burst or 0) / rate))


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 20))
def test_shares_come_to_no_more_than_the_whole(count: int, seconds: int, replicas: int) -> None:
    own = share(Window(count, seconds), replicas)
    assert replicas * own.count / own.seconds <= count / seconds + 1e-9


def test_there_may_be_no_limit_or_no_request() -> None:
    assert window(Limits()) is None
    assert window(Limits(requests_per_second=0)) == Window(0, 1)


class Shared:
    """All replicas', that can be away."""

    def __init__(self) -> None:
        self.is_away = False
        self.hits: deque[str] = deque()
        self._counter = LimitsCounter.in_memory()

    async def hit(self, key: str, limit: Window) -> float | None:
        if self.is_away:
            raise CounterAway
        self.hits.append(key)
        return await self._counter.hit(key, limit)


def made(ledger: FakeLedger, shared: Shared | None = None, replicas: int = 1) -> Rates:
    metrics = QuotaMetrics(CollectorRegistry())
    return Rates(ledger, shared, LimitsCounter.in_memory(), metrics, replica_count=replicas)


async def served(rates: Rates, count: int) -> int:
    return sum([not isinstance(await rates.check(ACCOUNT), Over) for _ in range(count)])


async def test_who_has_no_limit_is_not_counted() -> None:
    shared = Shared()
    assert await made(FakeLedger(), shared).check(ACCOUNT) is Fits.UNLIMITED
    assert not shared.hits


async def test_who_is_over_their_own_limit_uses_up_nobody_elses() -> None:
    ledger, shared = FakeLedger(), Shared()
    ledger.known = {
        KEY: Limits(requests_per_second=1, request_burst_count=30),
        PROJECT: Limits(requests_per_second=100),
    }
    rates = made(ledger, shared)
    assert await served(rates, 100) == 30
    assert sum(key.startswith("project") for key in shared.hits) == 30
    over = await rates.check(ACCOUNT)
    assert isinstance(over, Over)
    assert over.quota == "api_key.requests_per_second"
    assert 0 < over.retry_after_s <= 30


async def test_a_flood_is_answered_from_memory() -> None:
    ledger, shared = FakeLedger(), Shared()
    ledger.known = {PROJECT: Limits(requests_per_second=0.01)}
    rates = made(ledger, shared)
    assert await served(rates, 500) == 1
    assert len(shared.hits) == 2


async def test_without_redis_a_replica_allows_its_share_and_no_fresh_window() -> None:
    ledger, shared = FakeLedger(), Shared()
    ledger.known = {PROJECT: Limits(requests_per_second=1, request_burst_count=100)}
    rates = made(ledger, shared, replicas=2)
    assert await served(rates, 30) == 30
    shared.is_away = True
    assert await served(rates, 100) == 20


async def test_limits_are_as_they_were_while_the_store_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "LIMITS_KEPT_S", 0.0)
    ledger = FakeLedger()
    ledger.known = {PROJECT: Limits(requests_per_second=0)}
    rates = made(ledger)
    assert isinstance(await rates.check(ACCOUNT), Over)

    async def away(_: Account) -> dict[Kind, Limits]:
        raise StoreUnavailable

    monkeypatch.setattr(ledger, "limits", away)
    for _ in range(3):
        assert isinstance(await rates.check(ACCOUNT), Over)
        await asyncio.sleep(0)
    new = Account(organization_id="org", project_id="other")
    assert await rates.check(new) is Fits.COUNTED  # Nobody knows, so the edge is not told to stop asking.
