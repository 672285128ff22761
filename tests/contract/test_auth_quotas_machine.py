"""The ledger against a model of it: reserve, settle, crash, and change limits, in whatever order Hypothesis thinks of."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

import asyncpg
import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from services.auth.adapters.postgres import connected
from services.auth.adapters.postgres_quotas import PostgresQuotas
from services.auth.core.quotas import SHARE, Account, Amount, Kind, Limits, Subject
from services.auth.errors import QuotaExceeded
from services.auth.quota_ports import Wish
from tests.stack import Database

ACCOUNTS = [
    Account(organization_id="org-1", project_id=project, api_key_id=key)
    for project in ("project-1", "project-2")
    for key in ("", f"key-of-{project}")
]
SUBJECTS = sorted({subject for account in ACCOUNTS for subject in account.subjects}, key=repr)
TOKENS = st.integers(0, 120)


@dataclass(slots=True)
class Reserved:
    account: Account
    granted: int
    used: int = 0
    is_live: bool = True

    @property
    def held(self) -> int:
        return max(0, self.granted - self.used) if self.is_live else 0


class LedgerMachine(RuleBasedStateMachine):
    dsn = ""  # Set by the test.

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.opened = AsyncExitStack()
        self.known: list[Reserved] = []
        self.limits: dict[Subject, int] = {}
        self.loop.run_until_complete(self.begin())

    async def begin(self) -> None:
        database = await self.opened.enter_async_context(connected(self.dsn))
        self.ledger = PostgresQuotas(database, {})
        self.database = database
        async with database.connection(system=True) as connection:
            for table in ("quotas", "quota_usage", "quota_reservations"):
                await connection.execute(f"DELETE FROM {table}")

    def teardown(self) -> None:
        self.loop.run_until_complete(self.opened.aclose())
        self.loop.close()

    def left(self, account: Account, but: Reserved | None = None) -> int | None:
        """The least that is left of anybody's budget; None if none has any."""
        lefts = [
            self.limits[subject] - self.spent(subject) - self.held(subject, but)
            for subject in account.subjects
            if subject in self.limits
        ]
        return min(lefts, default=None)

    def spent(self, subject: Subject) -> int:
        return sum(one.used for one in self.known if subject in one.account.subjects)

    def held(self, subject: Subject, but: Reserved | None = None) -> int:
        return sum(one.held for one in self.known if one is not but and subject in one.account.subjects)

    @rule(subject=st.sampled_from(SUBJECTS), limit=st.none() | st.integers(0, 400))
    def set_limit(self, subject: Subject, limit: int | None) -> None:
        self.loop.run_until_complete(self.ledger.set_limits(subject, Limits(tokens_per_day=limit)))
        self.limits.pop(subject, None)
        if limit is not None:
            self.limits[subject] = limit

    @rule(account=st.sampled_from(ACCOUNTS), needed=TOKENS, wanted=TOKENS)
    def reserve(self, account: Account, needed: int, wanted: int) -> None:
        wish = Wish(needed=Amount(needed), wanted=Amount(wanted), lease_s=600)
        name, left = f"r{len(self.known)}", self.left(account)
        try:
            made = self.loop.run_until_complete(self.ledger.reserve(name, account, wish))
        except QuotaExceeded:
            assert left is not None
            assert left < needed
            return
        expected = 0
        if left is not None:
            assert left >= needed or needed == 0
            expected = max(0, min(left, needed + min(wanted, max(0, left - needed) // SHARE)))
        assert made.amount.token_count == expected
        self.known.append(Reserved(account, expected))

    @precondition(lambda self: self.known)
    @rule(data=st.data(), used=TOKENS, goes_on=st.booleans(), held=TOKENS)
    def settle(self, data: st.DataObject, used: int, *, goes_on: bool, held: int) -> None:
        place = data.draw(st.integers(0, len(self.known) - 1))
        one = self.known[place]
        wish = Wish(needed=Amount(held), lease_s=600) if goes_on else None
        settled = self.loop.run_until_complete(self.ledger.settle(f"r{place}", Amount(used), wish))
        one.used = max(one.used, used)
        one.is_live = goes_on
        left = self.left(one.account, but=one)
        one.granted = one.used + (0 if left is None or not goes_on else max(0, min(left, held)))
        assert (settled.reservation is not None) == goes_on
        if settled.reservation is not None:
            assert settled.reservation.amount.token_count == one.granted

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """Whoever had reserved it is gone, and the lease ends."""
        place = data.draw(st.integers(0, len(self.known) - 1))

        async def end() -> None:
            async with self.database.connection(system=True) as connection:
                await connection.execute(
                    "UPDATE quota_reservations SET lease_until = now() WHERE reservation_id = $1", f"r{place}"
                )

        self.loop.run_until_complete(end())
        self.known[place].is_live = False

    @invariant()
    def the_ledger_is_the_sum_of_what_was_used(self) -> None:
        for subject in SUBJECTS:
            book, _ = self.loop.run_until_complete(self.ledger.book(subject))
            assert book.used.token_count == self.spent(subject)
            assert book.reserved.token_count == self.held(subject)


def test_the_ledger_does_what_its_model_does(database: Database) -> None:
    LedgerMachine.dsn = database("auth")
    run_state_machine_as_test(
        LedgerMachine, settings=hypothesis.settings(max_examples=25, stateful_step_count=25, deadline=None)
    )


def test_kinds_are_those_of_the_store(database: Database) -> None:
    async def kinds() -> None:
        connection = await asyncpg.connect(database.system("auth"))
        for kind in Kind:
            await connection.execute(
                "INSERT INTO quotas (organization_id, kind, subject_id) VALUES ('o', $1, 'o')", kind.value
            )
        await connection.close()

    asyncio.run(kinds())
