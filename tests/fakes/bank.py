"""A ledger of budgets in memory, of one budget of tokens, that can be away, slow, or at its end of day."""

import asyncio
from dataclasses import dataclass, field

from services.inference.core.budgets import NOTHING, Amount, Grant, Payer, Refusal
from services.inference.errors import QuotaExceeded
from services.inference.ports import BankAway, ReservationLost

SHARE = 8


@dataclass(slots=True)
class Reservation:
    payer: Payer
    granted: int
    used: int = 0
    day: int = 0
    is_live: bool = True

    @property
    def held(self) -> int:
        return max(0, self.granted - self.used) if self.is_live else 0


@dataclass(slots=True)
class FakeBank:
    """Implements ports.Bank as auth does."""

    limit: int | None = None  # Of tokens, of everybody together.
    items_max: int | None = None
    stream_limits: dict[str, int] = field(default_factory=dict)
    is_away: bool = False
    day: int = 0
    known: dict[str, Reservation] = field(default_factory=dict)
    items: int = 0
    asked: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None  # Answers wait for it.
    delay_s: float = 0.0  # Until each answer.

    @property
    def used(self) -> int:
        return sum(one.used for one in self.known.values() if one.day == self.day)

    @property
    def held(self) -> int:
        return sum(one.held for one in self.known.values() if one.day == self.day)

    async def reserve(
        self,
        name: str,
        payer: Payer,
        *,
        needed: Amount,
        wanted: Amount = NOTHING,
        lease_s: float,
        token: str = "",
    ) -> Grant:
        await self._answers("reserve")
        if self.items_max is not None and self.items + needed.batch_item_count > self.items_max:
            raise QuotaExceeded(quota="project.batch_items_per_day", limit=self.items_max, retry_after_s=60.0)
        given = self._given(needed.token_count, wanted.token_count)
        if given is None:
            raise QuotaExceeded(quota="project.tokens_per_day", limit=self.limit, retry_after_s=60.0)
        self.known[name] = Reservation(payer, given, day=self.day)
        return self._grant(given)

    async def settle(
        self,
        name: str,
        used: Amount,
        *,
        lease_s: float | None = None,
        held: Amount = NOTHING,
        wanted: Amount = NOTHING,
    ) -> Grant | None:
        await self._answers("settle")
        if (one := self.known.get(name)) is None:
            raise ReservationLost
        self.items += used.batch_item_count
        one.used = max(one.used, used.token_count)
        one.granted = one.used
        one.is_live = lease_s is not None and one.day == self.day
        if not one.is_live:
            return None
        given = self._given(held.token_count, wanted.token_count)
        refusal = None
        if given is None:
            refusal = Refusal(quota="project.tokens_per_day", limit=str(self.limit), retry_after_s=60.0)
            assert self.limit is not None
            given = max(0, self.limit - self.used - self.held)
        one.granted = one.used + given
        return self._grant(one.granted, refusal)

    def _given(self, needed: int, wanted: int) -> int | None:
        if self.limit is None:
            return 0
        left = self.limit - self.used - self.held
        if left < needed and needed > 0:
            return None
        return max(0, min(left, needed + min(wanted, max(0, left - needed) // SHARE)))

    def _grant(self, granted: int, refusal: Refusal | None = None) -> Grant:
        limited = (self.limit is not None, False, self.items_max is not None)
        return Grant(
            amount=Amount(granted), limited=limited, stream_limits=self.stream_limits, refusal=refusal
        )

    async def _answers(self, what: str) -> None:
        self.asked.append(what)
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(self.delay_s)
        if self.is_away:
            raise BankAway
