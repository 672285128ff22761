"""What the ledger of budgets promises, on a real PostgreSQL: nothing is overspent, lost, or counted twice."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import asyncpg
import pytest

from services.auth.adapters.postgres import connected
from services.auth.adapters.postgres_quotas import PostgresQuotas
from services.auth.core.quotas import NOTHING, Account, Amount, Kind, Limits, Spent, Subject
from services.auth.errors import QuotaExceeded, RequestIdReused, ReservationNotFound
from services.auth.quota_ports import Wish
from services.common.errors import StoreUnavailable
from tests.stack import Database

ORG, PROJECT, KEY = "org-1", "project-1", "key-1"
ACCOUNT = Account(organization_id=ORG, project_id=PROJECT, api_key_id=KEY)
ORG_SUBJECT = Subject(Kind.ORGANIZATION, ORG, ORG)
PROJECT_SUBJECT = Subject(Kind.PROJECT, ORG, PROJECT)
KEY_SUBJECT = Subject(Kind.API_KEY, ORG, KEY)


@asynccontextmanager
async def opened(dsn: str, defaults: Mapping[Kind, Limits] | None = None) -> AsyncIterator[PostgresQuotas]:
    async with connected(dsn) as database:
        yield PostgresQuotas(database, defaults or {})


@pytest.fixture
async def ledger(database: Database) -> AsyncIterator[PostgresQuotas]:
    async with opened(database("auth")) as ledger:
        yield ledger


def wish(tokens: int, *, wanted: int = 0, lease_s: float = 60.0) -> Wish:
    return Wish(needed=Amount(tokens), wanted=Amount(wanted), lease_s=lease_s)


async def used(ledger: PostgresQuotas, subject: Subject = ORG_SUBJECT) -> int:
    return (await ledger.book(subject))[0].used.token_count


async def reserved(ledger: PostgresQuotas, subject: Subject = ORG_SUBJECT) -> int:
    return (await ledger.book(subject))[0].reserved.token_count


async def end_leases(database: Database) -> None:
    """As time would."""
    connection = await asyncpg.connect(database.system("auth"))
    await connection.execute("UPDATE quota_reservations SET lease_until = now() - interval '1 ms'")
    await connection.close()


async def test_what_is_unlimited_is_counted_all_the_same(ledger: PostgresQuotas) -> None:
    made = await ledger.reserve("r1", ACCOUNT, wish(100))
    assert (made.amount, made.limited) == (NOTHING, (False, False, False))
    await ledger.settle("r1", Amount(70, 1_500_000, 2), None)
    for subject in (ORG_SUBJECT, PROJECT_SUBJECT, KEY_SUBJECT):
        assert (await ledger.book(subject))[0].used == Amount(70, 1_500_000, 2)


@pytest.mark.parametrize("subject", [ORG_SUBJECT, PROJECT_SUBJECT, KEY_SUBJECT])
async def test_any_of_those_charged_can_refuse(ledger: PostgresQuotas, subject: Subject) -> None:
    await ledger.set_limits(subject, Limits(tokens_per_day=100))
    await ledger.reserve("r1", ACCOUNT, wish(60))
    with pytest.raises(QuotaExceeded) as refused:
        await ledger.reserve("r2", ACCOUNT, wish(50))
    assert refused.value.facts == {"quota": f"{subject.kind.value}.tokens_per_day", "limit": "100"}
    assert refused.value.retry_after_s is not None
    assert refused.value.retry_after_s <= 5.0  # It is only held.
    await ledger.settle("r1", Amount(60), None)
    with pytest.raises(QuotaExceeded) as refused:
        await ledger.reserve("r2", ACCOUNT, wish(50))
    assert refused.value.retry_after_s is not None
    assert 0 < refused.value.retry_after_s <= 86_400  # Until the day is over.
    await ledger.reserve("r3", ACCOUNT, wish(40))


async def test_a_key_is_not_charged_for_who_used_none(ledger: PostgresQuotas) -> None:
    await ledger.reserve("r1", Account(organization_id=ORG, project_id=PROJECT), wish(1))
    await ledger.settle("r1", Amount(5), None)
    assert await used(ledger) == 5
    assert await used(ledger, KEY_SUBJECT) == 0


async def test_the_same_id_of_another_organisation_has_limits_of_its_own(ledger: PostgresQuotas) -> None:
    await ledger.set_limits(PROJECT_SUBJECT, Limits(tokens_per_day=1))
    other = Account(organization_id="org-2", project_id=PROJECT)
    assert (await ledger.reserve("r1", other, wish(1000))).limited == (False, False, False)
    assert await ledger.limits(other) == {Kind.ORGANIZATION: Limits(), Kind.PROJECT: Limits()}
    assert (await ledger.limits(ACCOUNT))[Kind.PROJECT] == Limits(tokens_per_day=1)


async def test_a_lease_that_ends_leaves_no_phantom_debit(ledger: PostgresQuotas, database: Database) -> None:
    await ledger.set_limits(ORG_SUBJECT, Limits(tokens_per_day=100))
    await ledger.reserve("r1", ACCOUNT, wish(100))
    await end_leases(database)
    assert await reserved(ledger) == 0
    await ledger.reserve("r2", ACCOUNT, wish(100))


async def test_a_settlement_after_the_lease_counts_once(ledger: PostgresQuotas, database: Database) -> None:
    await ledger.set_limits(ORG_SUBJECT, Limits(tokens_per_day=100))
    await ledger.reserve("r1", ACCOUNT, wish(100))
    await end_leases(database)
    for _ in range(3):
        await ledger.settle("r1", Amount(30), None)
    await ledger.settle("r1", Amount(20), None)  # One that was overtaken.
    assert (await used(ledger), await reserved(ledger)) == (30, 0)


async def test_a_reservation_is_filled_up(ledger: PostgresQuotas) -> None:
    await ledger.set_limits(ORG_SUBJECT, Limits(tokens_per_day=1000))
    assert (await ledger.reserve("r1", ACCOUNT, wish(100))).amount == Amount(100)
    settled = await ledger.settle("r1", Amount(90), wish(50, wanted=40))
    assert settled.reservation is not None
    assert settled.reservation.amount == Amount(180)
    assert (await used(ledger), await reserved(ledger)) == (90, 90)
    last = await ledger.settle("r1", Amount(950), wish(100))  # More than was set aside.
    assert last.reservation is not None
    assert last.reservation.amount == Amount(1000)
    assert last.spent == Spent("organization.tokens_per_day", 1000, only_held=False)
    with pytest.raises(QuotaExceeded):
        await ledger.reserve("r2", ACCOUNT, wish(1))


async def test_only_a_share_of_what_is_left_is_given_beyond_the_need(ledger: PostgresQuotas) -> None:
    await ledger.set_limits(ORG_SUBJECT, Limits(tokens_per_day=810))
    assert (await ledger.reserve("r1", ACCOUNT, wish(10, wanted=10_000))).amount == Amount(110)


async def test_the_same_id_reserves_once(ledger: PostgresQuotas) -> None:
    await ledger.set_limits(ORG_SUBJECT, Limits(tokens_per_day=100))
    first = await ledger.reserve("r1", ACCOUNT, wish(80))
    assert (await ledger.reserve("r1", ACCOUNT, wish(80))).amount == first.amount == Amount(80)
    assert await reserved(ledger) == 80
    with pytest.raises(RequestIdReused):
        await ledger.reserve("r1", Account(organization_id=ORG, project_id="p2"), wish(1))
    with pytest.raises(ReservationNotFound):
        await ledger.settle("r9", NOTHING, None)


async def test_what_came_to_nothing_is_reserved_anew_by_its_name(ledger: PostgresQuotas) -> None:
    await ledger.set_limits(ORG_SUBJECT, Limits(tokens_per_day=100))
    await ledger.reserve("r1", ACCOUNT, wish(80))
    await ledger.settle("r1", NOTHING, None)
    await ledger.reserve("r2", ACCOUNT, wish(50))
    with pytest.raises(QuotaExceeded):
        await ledger.reserve("r1", ACCOUNT, wish(80))
    await ledger.settle("r2", Amount(50), None)
    assert (await ledger.reserve("r2", ACCOUNT, wish(90))).amount == Amount(50)  # It was: nothing more is.


async def test_what_was_reserved_yesterday_counts_for_yesterday(
    ledger: PostgresQuotas, database: Database
) -> None:
    await ledger.set_limits(ORG_SUBJECT, Limits(tokens_per_day=100))
    await ledger.reserve("r1", ACCOUNT, wish(100))
    connection = await asyncpg.connect(database.system("auth"))
    await connection.execute("UPDATE quota_reservations SET day = day - 1")
    assert (await ledger.settle("r1", Amount(70), wish(10))).reservation is None
    days = await connection.fetch(
        "SELECT (now() AT TIME ZONE 'UTC')::date - day AS age, token_count FROM quota_usage WHERE kind = 'organization'"
    )
    await connection.close()
    assert [tuple(row) for row in days] == [(1, 70)]
    await ledger.reserve("r2", ACCOUNT, wish(100))


async def test_a_lease_that_outlasts_the_day_does_not_make_it_longer(ledger: PostgresQuotas) -> None:
    """Whoever is refused shortly before midnight must not be told to come again a day later."""
    reserved = await ledger.reserve("r1", ACCOUNT, wish(10, lease_s=86_400.0))
    settled = (await ledger.settle("r1", Amount(5), wish(10, lease_s=86_400.0))).reservation
    assert settled is not None
    day_ends = (await ledger.book(ORG_SUBJECT))[1]
    assert [reserved.reset_time, settled.reset_time] == [day_ends, day_ends]


async def test_reservers_at_once_never_overspend(database: Database) -> None:
    """Of two replicas: the limit holds at every moment, and the ledger is the sum of what was used."""
    limit, spent_total = 1000, 0
    rng = random.Random(7)
    async with opened(database("auth")) as one, opened(database("auth")) as two:
        await one.set_limits(ORG_SUBJECT, Limits(tokens_per_day=limit))

        async def spend(place: int) -> None:
            nonlocal spent_total
            ledger = (one, two)[place % 2]
            for turn in range(12):
                name, cost = f"r{place}-{turn}", rng.randint(1, 40)
                try:
                    given = (await ledger.reserve(name, ACCOUNT, wish(cost, wanted=cost))).amount.token_count
                except QuotaExceeded:
                    continue
                spent = rng.randint(0, given)
                await asyncio.gather(*(ledger.settle(name, Amount(spent), None) for _ in range(2)))
                spent_total += spent

        async def watch() -> None:
            while True:
                book, _ = await two.book(ORG_SUBJECT)
                assert book.used.token_count + book.reserved.token_count <= limit
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        await asyncio.gather(*map(spend, range(6)))
        watching.cancel()
        (how,) = await asyncio.gather(watching, return_exceptions=True)
        assert isinstance(how, asyncio.CancelledError), how
        assert await used(one) == await used(two, KEY_SUBJECT) == spent_total <= limit
        assert await reserved(one) == 0


async def test_defaults_hold_until_limits_are_set(database: Database) -> None:
    defaults = {Kind.PROJECT: Limits(tokens_per_day=10)}
    async with opened(database("auth"), defaults) as ledger:
        with pytest.raises(QuotaExceeded):
            await ledger.reserve("r1", ACCOUNT, wish(11))
        await ledger.set_limits(PROJECT_SUBJECT, Limits())
        await ledger.reserve("r1", ACCOUNT, wish(11))


async def test_what_is_long_over_is_forgotten(ledger: PostgresQuotas, database: Database) -> None:
    await ledger.reserve("old", ACCOUNT, wish(1))
    await ledger.settle("old", Amount(5), None)
    connection = await asyncpg.connect(database.system("auth"))
    await connection.execute("UPDATE quota_reservations SET lease_until = now() - interval '3 days'")
    await connection.close()
    await ledger.reserve("new", ACCOUNT, wish(1))
    await ledger.sweep()
    with pytest.raises(ReservationNotFound):
        await ledger.settle("old", Amount(9), None)
    await ledger.settle("new", Amount(1), None)
    assert await used(ledger) == 6


async def test_a_store_that_is_away_changes_nothing() -> None:
    async with opened("postgresql://ollamesh_auth@127.0.0.1:1/none") as ledger:
        with pytest.raises(StoreUnavailable):
            await ledger.reserve("r1", ACCOUNT, wish(1))
