"""Limits in memory, for tests of who may see and set them."""

import datetime as dt
from collections.abc import Mapping

from services.auth.core.quotas import Account, Amount, Book, Kind, Limits, Subject
from services.auth.quota_ports import Reservation, Settlement, Wish

RESET = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class FakeLedger:
    def __init__(self) -> None:
        self.known: dict[Subject, Limits] = {}

    async def reserve(self, reservation_id: str, account: Account, wish: Wish) -> Reservation:
        raise NotImplementedError

    async def settle(self, reservation_id: str, used: Amount, wish: Wish | None) -> Settlement:
        raise NotImplementedError

    async def book(self, subject: Subject) -> tuple[Book, dt.datetime]:
        return Book(self.known.get(subject, Limits())), RESET

    async def limits(self, account: Account) -> Mapping[Kind, Limits]:
        return {each.kind: self.known.get(each, Limits()) for each in account.subjects}

    async def set_limits(self, subject: Subject, limits: Limits) -> None:
        self.known[subject] = limits

    async def exists(self, subject: Subject) -> bool:
        return True

    async def sweep(self) -> None:
        """Nothing gets old here."""

    def default(self, kind: Kind) -> Limits:
        return Limits()
