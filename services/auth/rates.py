"""Request rates: whether one more request of an account fits.

Counted in Redis for all replicas. While Redis is away each replica allows its share by itself; what Redis allows is counted
here too, so that its going away gives nobody a fresh window. Who is over a limit is remembered until there is room again:
a flood is answered from memory.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto

from services.auth.core.quotas import Account, Kind, Limits, Subject
from services.auth.core.rates import Window, share, window
from services.auth.quota_metrics import QuotaMetrics
from services.auth.quota_ports import Ledger
from services.auth.rate_ports import Counter, CounterAway
from services.common.errors import StoreFailure

LIMITS_KEPT_S = 2.0  # How late a change of limits is seen.
LIMITS_S_MAX = 0.15  # Wait for those of an account that is new here: less than the edge waits.
ACCOUNTS_MAX = 10_000
REFUSALS_MAX = 10_000
NARROWEST_FIRST = (Kind.API_KEY, Kind.PROJECT, Kind.ORGANIZATION)


@dataclass(frozen=True, slots=True)
class Over:
    """Why a request does not fit."""

    quota: str
    limit: Window
    retry_after_s: float


class Fits(Enum):
    COUNTED = auto()  # Or nobody could say whether there is a limit: ask again.
    UNLIMITED = auto()  # And nobody need ask again so soon.


@dataclass(slots=True)
class _Known:
    limits: Mapping[Kind, Limits]
    until_s: float


class Rates:
    """Of one replica."""

    def __init__(
        self,
        ledger: Ledger,
        shared: Counter | None,
        own: Counter,
        metrics: QuotaMetrics,
        *,
        replica_count: int,
    ) -> None:
        """`shared` counts for all replicas, if there is such a one; `own` for this one."""
        self._ledger = ledger
        self._shared = shared
        self._own = own
        self._metrics = metrics
        self._replica_count = replica_count
        self._known: OrderedDict[Account, _Known] = OrderedDict()
        self._refused: OrderedDict[Subject, tuple[Over, float]] = OrderedDict()
        self._looking: dict[Account, asyncio.Task[None]] = {}

    async def check(self, account: Account) -> Over | Fits:
        """Count a request."""
        limits = await self._limits(account)
        subjects = {subject.kind: subject for subject in account.subjects}
        counted = False
        # The narrowest first: who is over their own limit uses up nobody else's.
        for kind in NARROWEST_FIRST:
            subject, limit = subjects.get(kind), window(limits.get(kind, Limits()))
            if subject is None or limit is None:
                continue
            counted = True
            over = await self._hit(subject, limit)
            if over is not None:
                return over
        if not counted:
            self._metrics.rate("allowed", "nowhere")
        known = self._known.get(account)
        is_sure = known is not None and _now_s() < known.until_s + LIMITS_KEPT_S
        return Fits.UNLIMITED if is_sure and not counted else Fits.COUNTED

    async def _hit(self, subject: Subject, limit: Window) -> Over | None:
        over, until_s = self._refused.get(subject, (None, 0.0))
        if over is not None and over.limit == limit and _now_s() < until_s:
            self._metrics.rate("refused", "remembered")
            return Over(over.quota, limit, until_s - _now_s())
        key = f"{subject.kind.value}:{subject.organization_id}:{subject.subject_id}"
        retry_after_s, where = await self._count(key, limit)
        self._metrics.rate("allowed" if retry_after_s is None else "refused", where)
        if retry_after_s is None:
            return None
        over = Over(f"{subject.kind.value}.requests_per_second", limit, retry_after_s)
        self._refused[subject] = (over, _now_s() + retry_after_s)
        self._refused.move_to_end(subject)
        while len(self._refused) > REFUSALS_MAX:
            self._refused.popitem(last=False)
        return over

    async def _count(self, key: str, limit: Window) -> tuple[float | None, str]:
        own = share(limit, self._replica_count)
        if self._shared is None:
            return await self._own.hit(key, own), "local"
        try:
            retry_after_s = await self._shared.hit(key, limit)
        except CounterAway:
            return await self._own.hit(key, own), "local"
        if retry_after_s is None:
            await self._own.hit(key, own)
        return retry_after_s, "redis"

    async def _limits(self, account: Account) -> Mapping[Kind, Limits]:
        known = self._known.get(account)
        if known is None or known.until_s < _now_s():
            task = self._look_up(account)
            if known is None or known.until_s + LIMITS_KEPT_S < _now_s():  # Too old to be used meanwhile.
                with suppress(TimeoutError):
                    async with asyncio.timeout(LIMITS_S_MAX):
                        await asyncio.shield(task)
                known = self._known.get(account)
        if known is None:  # Nobody can say: what holds where nothing was set.
            return {kind: self._ledger.default(kind) for kind in Kind}
        return known.limits

    def _look_up(self, account: Account) -> asyncio.Task[None]:
        """Look for an account's limits, once for all who ask."""
        task = self._looking.get(account)
        if task is None:
            task = self._looking[account] = asyncio.create_task(self._look(account))
            task.add_done_callback(lambda _: self._looking.pop(account, None))
        return task

    async def _look(self, account: Account) -> None:
        try:
            limits = await self._ledger.limits(account)
        except StoreFailure:
            known = self._known.get(account)
            if known is None:
                return
            limits = known.limits  # As they were.
        self._known[account] = _Known(limits, _now_s() + LIMITS_KEPT_S)
        self._known.move_to_end(account)
        while len(self._known) > ACCOUNTS_MAX:
            self._known.popitem(last=False)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
