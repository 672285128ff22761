"""Budgets, as a process spends them: from slices that the auth service gives, filled up before they are empty.

A request waits for the ledger only if its account is new here, or has spent its slice faster than it could be filled up;
and then for `WAIT_S_MAX` at most, or `ASK_S_MAX` if nobody answers. While auth is away, slices are spent to their ends; then `when_away` decides. What is
used meanwhile is owed, and told when auth is back.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from uuid import uuid4

import structlog

from services.common.errors import MeshError
from services.inference.budget_metrics import BudgetMetrics
from services.inference.core.accounting import Entry
from services.inference.core.admission import Order
from services.inference.core.asks import Embed
from services.inference.core.budgets import MICRO, NOTHING, Amount, Forecast, Grant, Payer, Refusal, Slice
from services.inference.core.callers import Principal
from services.inference.errors import QuotaExceeded, QuotaUnavailable
from services.inference.ports import Bank, BankAway, ReservationLost
from services.inference.streams_at_once import StreamsAtOnce

ASK_S_MAX = 0.5  # For one answer.
WAIT_S_MAX = (
    2.0  # For those who ask before: near the end of a budget each gets little, and all of them answers.
)
LEASE_S = 60.0
SETTLE_EVERY_S = 2.0
FILL_EVERY_S = 0.1
IDLE_S = 10.0  # Then a slice is given back.
AWAY_S = 1.0  # Between two tries.
REFUSED_S_MAX = 1.0  # For so long, a refusal is remembered.
SLICES_MAX = 10_000
AT_ONCE_MAX = 16  # Questions to auth.
CLOSE_S_MAX = 3.0

log = structlog.get_logger(__name__)


class WhenAway(Enum):
    """What becomes of a request whose slice is spent while auth is away."""

    OPEN = "open"  # It is served, and charged when auth is back.
    CLOSED = "closed"  # It is refused.


@dataclass(slots=True)
class _Kept:
    payer: Payer
    slice: Slice = field(default_factory=Slice)
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)  # One question at a time.
    token: str = field(default="", repr=False)  # Of the last who asked.


class Hold:
    """A request's place in its budgets. Release it however the request ends. Idempotent and synchronous."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        release, self._release = self._release, None
        if release is not None:
            release()


class Budgets:
    """Of one process. `run` must run."""

    def __init__(
        self, bank: Bank, at_once: StreamsAtOnce, metrics: BudgetMetrics, *, when_away: WhenAway
    ) -> None:
        self._bank = bank
        self._at_once = at_once
        self._metrics = metrics
        self._when_away = when_away
        self._kept: dict[Payer, _Kept] = {}
        self._low: set[Payer] = set()
        self._news = asyncio.Event()
        self._away_until_s = 0.0
        self.forecast = Forecast()

    def background(self) -> list[tuple[str, Callable[[], Coroutine[None, None, None]]]]:
        """What must run meanwhile."""
        return [("budgets", self.run), ("streams at once", self._at_once.run)]

    async def hold(self, principal: Principal, order: Order, *, is_stream: bool) -> Hold:
        """Admit a request, or raise QuotaExceeded or QuotaUnavailable."""
        output_max = 0 if isinstance(order.ask, Embed) else order.output_token_max or None
        cost = self.forecast.cost(prompt_token_count=order.prompt_token_count, output_token_max=output_max)
        kept = self._of(principal)
        await self._admit(kept, cost)
        kept.slice.held += cost

        def release() -> None:
            kept.slice.held -= cost

        if not is_stream or not (limits := kept.slice.grant.stream_limits):
            return Hold(release)
        try:
            leave = await self._at_once.enter(kept.payer, limits)
        except BaseException as error:
            release()
            self._count(error)
            raise

        def release_both() -> None:
            release()
            leave()

        return Hold(release_both)

    def used(self, entry: Entry) -> None:
        """Hear what a request used that has ended. Never waits and never fails."""
        tokens = entry.prompt_token_count + entry.output_token_count
        gpu_us = round(entry.gpu_s * MICRO)
        if not (entry.cached or entry.joined or entry.cancelled):
            self.forecast.learn(
                output_token_count=entry.output_token_count, token_count=tokens, gpu_us=gpu_us
            )
        kept = self._of(entry.principal, may_refuse=False)
        kept.slice.used += Amount(tokens, gpu_us)
        kept.slice.touched_s = _now_s()
        if kept.slice.is_low:
            self._nudge(kept)

    @asynccontextmanager
    async def charged_items(
        self, principal: Principal, count: int, *, name: str
    ) -> AsyncIterator[Callable[[], None]]:
        """Set a batch's items aside; charge them if the block says so. Under the same name they are charged once.

        Raises QuotaExceeded and QuotaUnavailable.
        """
        charged = NOTHING
        items = Amount(batch_item_count=count)
        try:
            async with asyncio.timeout(ASK_S_MAX):
                await self._bank.reserve(
                    name, _payer(principal), needed=items, lease_s=LEASE_S, token=principal.token
                )
        except QuotaExceeded as error:
            self._count(error)
            raise
        except (BankAway, TimeoutError):
            self._unasked()
            name = ""

        def charge() -> None:
            nonlocal charged
            charged = items

        try:
            yield charge
        finally:
            if name:
                with suppress(BankAway, ReservationLost, TimeoutError):
                    async with asyncio.timeout(ASK_S_MAX):
                        await self._bank.settle(name, charged)

    async def run(self) -> None:
        """Tell what was used, fill up what is low and give back what is idle, until cancelled."""
        next_s = _now_s() + SETTLE_EVERY_S
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, next_s - _now_s())):
                    await self._news.wait()
            self._news.clear()
            low, self._low = self._low, set()
            due = [kept for payer in low if (kept := self._kept.get(payer)) is not None]
            if _now_s() >= next_s:
                next_s = _now_s() + SETTLE_EVERY_S
                due = [kept for kept in self._kept.values() if self._is_due(kept.slice)]
                self._metrics.slices(len(self._kept))
            await self._settle_all(due)

    async def close(self) -> None:
        """Tell what is left and give everything back, if that is possible at once."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S_MAX):
                self._away_until_s = 0.0
                await self._settle_all(list(self._kept.values()), finally_=True)
        owed = sum(kept.slice.owed.token_count for kept in self._kept.values())
        if owed:
            log.warning("quota_usage_untold", tokens=owed)

    # Admitting

    def _of(self, principal: Principal, *, may_refuse: bool = True) -> _Kept:
        payer = _payer(principal)
        kept = self._kept.get(payer)
        if kept is None:
            if may_refuse and len(self._kept) >= SLICES_MAX:
                raise QuotaUnavailable
            kept = self._kept[payer] = _Kept(payer)
        kept.token = principal.token or kept.token
        kept.slice.touched_s = _now_s()
        return kept

    async def _admit(self, kept: _Kept, cost: Amount) -> None:
        if kept.slice.fits(cost, now_s=_now_s()):
            if kept.slice.is_low:
                self._nudge(kept)
            return
        try:
            if _now_s() < self._away_until_s:
                raise BankAway
            with self._metrics.waited():
                refusal = await self._fill(kept, cost)
        except (BankAway, TimeoutError):
            self._unasked()
            return
        if refusal is not None:
            error = QuotaExceeded(
                quota=refusal.quota, limit=refusal.limit, retry_after_s=refusal.retry_after_s
            )
            self._count(error)
            raise error

    async def _fill(self, kept: _Kept, cost: Amount) -> Refusal | None:
        """Have the slice hold so much more; return why that is not possible. Raises BankAway and TimeoutError."""
        async with asyncio.timeout(WAIT_S_MAX), kept.asking:
            piece = kept.slice
            if piece.fits(cost, now_s=_now_s()):  # Somebody else has filled it.
                return None
            if piece.refuses(cost, now_s=_now_s()):
                return piece.grant.refusal
            async with self._answering():
                await self._ask(kept, cost)
            if piece.fits(cost, now_s=_now_s()):
                return None
            refusal = piece.grant.refusal
            if refusal is None:
                raise BankAway  # Its day or its lease has ended in the meantime.
            await self._give_back(kept)
            piece.refused(refusal, cost, until_s=_now_s() + min(REFUSED_S_MAX, refusal.retry_after_s))
            return refusal

    async def _give_back(self, kept: _Kept) -> None:
        """What came of asking for more than there was: nobody here can use it, and others may."""
        with suppress(BankAway):
            if kept.slice.reservation_id:
                async with self._answering():
                    await self._settle(kept)

    @asynccontextmanager
    async def _answering(self, *, though_away: bool = False) -> AsyncIterator[None]:
        """Ask inside. Raises BankAway if no answer has come in time, and at once for a moment after that."""
        if _now_s() < self._away_until_s and not though_away:
            raise BankAway
        try:
            async with asyncio.timeout(ASK_S_MAX):
                yield
        except (BankAway, TimeoutError):
            self._away_until_s = _now_s() + AWAY_S
            raise BankAway from None

    async def _ask(self, kept: _Kept, cost: Amount) -> None:
        """Settle and fill up, or reserve. The caller has `asking`."""
        piece, began_s = kept.slice, _now_s()
        try:
            if piece.reservation_id:
                await self._settle(kept, cost)
            if not piece.reservation_id:  # Also if its day is over.
                name = uuid4().hex
                needed = piece.used + piece.held + cost
                grant = await self._bank.reserve(
                    name,
                    kept.payer,
                    needed=needed,
                    wanted=piece.wanted + cost,
                    lease_s=LEASE_S,
                    token=kept.token,
                )
                piece.reservation_id = name
                piece.filled(grant, told=NOTHING, now_s=began_s, lease_s=LEASE_S)
        except QuotaExceeded as error:
            refusal = _refusal(error)
            piece.grant = Grant(
                limited=piece.grant.limited, stream_limits=piece.grant.stream_limits, refusal=refusal
            )

    async def _settle(self, kept: _Kept, cost: Amount = NOTHING, *, finally_: bool = False) -> None:
        piece, began_s, told = kept.slice, _now_s(), kept.slice.used
        try:
            grant = await self._bank.settle(
                piece.reservation_id,
                told,
                lease_s=None if finally_ else LEASE_S,
                held=piece.held + cost,
                wanted=piece.wanted + cost,
            )
        except ReservationLost:
            log.warning("reservation_lost")
            piece.closed(told=piece.settled)
            return
        if grant is None:
            piece.closed(told=told)
        else:
            piece.filled(grant, told=told, now_s=began_s, lease_s=LEASE_S)

    # In the background

    def _is_due(self, piece: Slice) -> bool:
        now_s = _now_s()
        return (
            piece.owed != NOTHING or now_s > piece.until_s - LEASE_S / 2 or now_s > piece.touched_s + IDLE_S
        )

    def _nudge(self, kept: _Kept) -> None:
        if (
            _now_s() < kept.slice.filled_s + FILL_EVERY_S
        ):  # What is nearly spent is low for the rest of the day.
            return
        self._low.add(kept.payer)
        self._news.set()

    async def _settle_all(self, due: list[_Kept], *, finally_: bool = False) -> None:
        if _now_s() < self._away_until_s:
            return
        places = asyncio.Semaphore(AT_ONCE_MAX)

        async def settle(kept: _Kept) -> None:
            async with places:
                await self._keep_up(kept, finally_=finally_)

        async with asyncio.TaskGroup() as tasks:
            for kept in due:
                tasks.create_task(settle(kept))

    async def _keep_up(self, kept: _Kept, *, finally_: bool) -> None:
        piece = kept.slice
        over = finally_ or (piece.held == NOTHING and _now_s() > piece.touched_s + IDLE_S)
        try:
            async with asyncio.timeout(WAIT_S_MAX), kept.asking, self._answering(though_away=finally_):
                if not piece.reservation_id and piece.owed != NOTHING:
                    # To tell what is owed, however much is left.
                    name = uuid4().hex
                    await self._bank.reserve(
                        name, kept.payer, needed=NOTHING, lease_s=LEASE_S, token=kept.token
                    )
                    piece.reservation_id = name
                if piece.reservation_id:
                    await self._settle(kept, finally_=over)
        except (BankAway, TimeoutError):
            pass  # The next turn will do.
        except MeshError as error:
            log.warning("quota_untold", reason=error.reason)
        came_back = not finally_ and _now_s() <= piece.touched_s + IDLE_S  # And may be waiting to ask.
        is_over = over and not came_back and piece.is_idle and not piece.reservation_id
        if is_over and self._kept.get(kept.payer) is kept:
            del self._kept[kept.payer]

    def _unasked(self) -> None:
        """Nobody can be asked: go on, or raise QuotaUnavailable."""
        if self._when_away is WhenAway.CLOSED:
            self._metrics.refused("unavailable")
            raise QuotaUnavailable
        self._metrics.unasked()

    def _count(self, error: BaseException) -> None:
        if isinstance(error, QuotaExceeded):
            self._metrics.refused(error.facts["quota"])


def _payer(principal: Principal) -> Payer:
    return Payer(principal.organization_id, principal.project_id, principal.api_key_id)


def _refusal(error: QuotaExceeded) -> Refusal:
    return Refusal(
        quota=error.facts["quota"],
        limit=error.facts.get("limit", ""),
        retry_after_s=error.retry_after_s or REFUSED_S_MAX,
    )


def _now_s() -> float:
    return asyncio.get_running_loop().time()
