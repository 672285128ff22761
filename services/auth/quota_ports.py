"""What quotas need from their store, and the words for it."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from services.auth.core.quotas import NOTHING, Account, Amount, Book, Kind, Limits, Spent, Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What somebody asks to have set aside, and for how long."""

    needed: Amount
    wanted: Amount = NOTHING  # Beyond that.
    lease_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What is set aside."""

    amount: Amount
    limited: tuple[bool, bool, bool]  # Which parts of an Amount anybody of the account has a limit for.
    streams: Mapping[Kind, int | None]  # How many at once.
    expire_time: dt.datetime
    reset_time: dt.datetime


@dataclass(frozen=True, slots=True)
class Settlement:
    reservation: Reservation | None  # None: nothing is set aside any more.
    spent: Spent | None  # Which budget had less than what is needed.


class Ledger(Protocol):
    """Limits, and who has used and set aside what. Every method raises StoreFailure."""

    async def reserve(self, reservation_id: str, account: Account, wish: Wish) -> Reservation:
        """Set an amount aside, once for each id. Raises QuotaExceeded and RequestIdReused."""
        ...

    async def settle(self, reservation_id: str, used: Amount, wish: Wish | None) -> Settlement:
        """Count what was used under a reservation so far, and set aside anew or, without a wish, nothing.

        Said again, it adds nothing; said late, it counts all the same. Raises ReservationNotFound.
        """
        ...

    async def book(self, subject: Subject) -> tuple[Book, dt.datetime]:
        """One subject's day so far, and when it is over."""
        ...

    async def limits(self, account: Account) -> Mapping[Kind, Limits]:
        """The limits of all that are charged."""
        ...

    async def set_limits(self, subject: Subject, limits: Limits) -> None: ...

    async def exists(self, subject: Subject) -> bool: ...

    async def sweep(self) -> None:
        """Forget what is long over."""
        ...

    def default(self, kind: Kind) -> Limits:
        """What holds where nothing was set."""
        ...
