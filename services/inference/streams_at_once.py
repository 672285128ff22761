"""How many streams an organisation, a project or a key has open at once, over all replicas.

Counted in Redis, under leases: what a process had that was killed is free again within `LEASE_S`. While Redis is away each
process allows its share, rounded up, so of a limit L that N processes share at most L + N - 1 are open.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Protocol

from services.inference.core.budgets import Payer
from services.inference.core.secret_names import Names
from services.inference.errors import QuotaExceeded

LEASE_S = 30.0
RENEW_EVERY_S = 10.0
AT_ONCE_MAX = 200  # Streams that are renewed or let go with one question.
RETRY_S = 1.0
QUOTA = "concurrent_stream_count"


class CountsAway(Exception):
    """Whoever counts does not answer."""


@dataclass(frozen=True, slots=True)
class Place:
    """A stream's place in one count."""

    key: bytes
    kind: str
    limit: int


class SharedCounts(Protocol):
    """Counts of all replicas. Every method raises CountsAway."""

    async def enter(self, name: str, places: Sequence[Place], *, lease_s: float) -> int:
        """Take all places; or none, and return how many would be before the one that is full. All taken: -1."""

    async def renew(self, held: Mapping[str, Sequence[Place]], *, lease_s: float) -> None: ...

    async def leave(self, left: Mapping[str, Sequence[Place]]) -> None: ...


class StreamsAtOnce:
    """Of one process. `run` must run."""

    def __init__(
        self, counts: SharedCounts | None, names: Names, *, process_id: str, share_count: int
    ) -> None:
        """`share_count` is how many processes share a limit while nobody counts for all of them."""
        self._counts = counts
        self._names = names
        self._process_id = process_id
        self._share_count = share_count
        self._numbers = count()
        self._held: dict[str, Sequence[Place]] = {}
        self._left: dict[str, Sequence[Place]] = {}
        self._here: Counter[bytes] = Counter()
        self._news = asyncio.Event()

    async def enter(self, payer: Payer, limits: Mapping[str, int]) -> Callable[[], None]:
        """Count a stream; return what lets it go, which is synchronous. Raises QuotaExceeded."""
        places = [
            Place(self._names.name(payer.organization_id, f"{kind}\0{one}".encode()), kind, limits[kind])
            for kind, one in payer.subjects.items()
            if kind in limits
        ]
        name = f"{self._process_id}:{next(self._numbers)}"
        full = await self._full(name, places)
        if full is not None:
            raise QuotaExceeded(quota=f"{full.kind}.{QUOTA}", limit=full.limit, retry_after_s=RETRY_S)
        self._held[name] = places
        self._here.update(place.key for place in places)

        def leave() -> None:
            del self._held[name]
            self._here.subtract(place.key for place in places)
            for place in places:
                if not self._here[place.key]:
                    del self._here[place.key]
            self._left[name] = places
            self._news.set()

        return leave

    async def run(self) -> None:
        """Renew what is held and let go what was left, until cancelled."""
        renew_s = _now_s() + RENEW_EVERY_S
        while True:
            try:
                async with asyncio.timeout(max(0.0, renew_s - _now_s())):
                    await self._news.wait()
            except TimeoutError:
                renew_s = _now_s() + RENEW_EVERY_S
                await self._renew()
            self._news.clear()
            await self._let_go()

    async def _full(self, name: str, places: Sequence[Place]) -> Place | None:
        if self._counts is not None:
            try:
                place = await self._counts.enter(name, places, lease_s=LEASE_S)
            except CountsAway:
                pass  # Each for itself.
            except asyncio.CancelledError:
                self._left[name] = places  # It may have been counted.
                self._news.set()
                raise
            else:
                return None if place < 0 else places[place]
        for one in places:
            if self._here[one.key] >= math.ceil(one.limit / self._share_count):
                return one
        return None

    async def _renew(self) -> None:
        held = list(self._held.items())
        if self._counts is None:
            return
        try:
            for start in range(0, len(held), AT_ONCE_MAX):
                await self._counts.renew(dict(held[start : start + AT_ONCE_MAX]), lease_s=LEASE_S)
        except CountsAway:
            return

    async def _let_go(self) -> None:
        while self._left:
            some = dict(islice(self._left.items(), AT_ONCE_MAX))
            for name in some:
                del self._left[name]
            if self._counts is None:
                continue
            try:
                await self._counts.leave(some)
            except CountsAway:
                continue  # Their leases end.


def _now_s() -> float:
    return asyncio.get_running_loop().time()
