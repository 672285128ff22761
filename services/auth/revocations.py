"""What was revoked: written down first, then known here at once, and everywhere else within a second.

    replica A: write ──▶ PostgreSQL ──NOTIFY, or looked for twice a second──▶ replica B
        └─ own list, own watchers                                                └─ own list, own watchers

Nothing is taken back: an entry grows stricter or is forgotten once no token that is meant can be valid.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from services.auth.core.claims import LIFETIME_MAX_S
from services.auth.core.revocation_shares import Shares
from services.auth.errors import WatchEnded
from services.common.errors import StoreFailure, StoreUnavailable
from services.common.revoked import DenyList, Kind, Revocation
from services.common.tokens import CLOCK_SKEW_S

log = structlog.get_logger(__name__)

READ_EVERY_S = 0.4  # At the latest; the bell rings sooner.
FORGET_EVERY_S = 60.0
KEPT_S = LIFETIME_MAX_S + 2 * CLOCK_SKEW_S  # A token's life, by the slowest clock and the fastest.
EVER = "0"  # Before all that was written.
WATCHERS_MAX = 256
PENDING_MAX = 10_000  # For one watcher; who is further behind than that begins anew.
CUT = frozenset({Kind.USER, Kind.CLIENT})  # May come back, with tokens of a later time.


@dataclass(frozen=True, slots=True)
class Read:
    """Entries, and from where to read on."""

    entries: Sequence[Revocation]
    horizon: str


class RevocationStore(Protocol):
    """Every method raises StoreFailure when the store does not answer in time."""

    async def write(self, entry: Revocation) -> Revocation:
        """Merge it with what is known of the same id, ring the bell of every replica, return what stands now."""
        ...

    async def read(self, since: str) -> Read:
        """All that is not to be forgotten yet and was written by what had not ended at that horizon."""
        ...

    async def forget(self) -> None:
        """Drop what is to be forgotten."""
        ...


@dataclass(slots=True, eq=False)
class Watcher:
    """One who is told. What waits for him is bounded: see PENDING_MAX."""

    pending: list[Revocation] = field(default_factory=list)
    lost: bool = False  # He was too slow, and must begin anew.
    stirred: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, entries: Sequence[Revocation]) -> None:
        self.lost = self.lost or len(self.pending) + len(entries) > PENDING_MAX
        if not self.lost:
            self.pending += entries
        self.stirred.set()

    def take(self) -> list[Revocation]:
        taken, self.pending = self.pending, []
        self.stirred.clear()
        return taken


class Revocations:
    """The event loop is the lock: who begins to watch misses nothing, since nothing awaits in between."""

    def __init__(
        self,
        store: RevocationStore,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.denied = DenyList()  # For this replica's own verifier.
        self._store, self._clock, self._monotonic = store, clock, monotonic
        self._horizon = EVER
        self._read_at_s = float("-inf")
        self._bell = asyncio.Event()
        self._watchers: set[Watcher] = set()
        self._dismissed = False
        self._shares = Shares(window_s=KEPT_S)

    async def revoke(
        self,
        kind: Kind,
        id: str,  # noqa: A002
        *,
        owner: str = "",
        until_s: float | None = None,
        for_good: bool = False,
    ) -> None:
        """Have all tokens with that id refused, from now on here and within a second everywhere.

        Of a user or a client: those that were issued up to now; or, `for_good`, whenever they are. `until_s`: when they
        will all have expired anyway; by default, when any token has that was issued by now. `owner` is the user whose it
        is: beyond their share of the list, it is all of theirs (core/revocation_shares.py). Idempotent. Raises
        StoreFailure, having changed nothing.
        """
        entry = self.entry(kind, id, owner=owner, until_s=until_s, for_good=for_good)
        self._learn([await self._store.write(entry)])
        log.info("revoked", kind=entry.kind.value, id=entry.id)

    def entry(
        self,
        kind: Kind,
        id: str,  # noqa: A002
        *,
        owner: str = "",
        until_s: float | None = None,
        for_good: bool = False,
    ) -> Revocation:
        """What `revoke` writes: for a transaction that does more (adapters/postgres_revocations.py, `write`)."""
        now_s = self._clock()
        if owner and not self._shares.takes_one(owner, now_s):
            kind, id = Kind.USER, owner  # noqa: A001
        return Revocation(
            kind=kind,
            id=id,
            issued_until_s=now_s if kind in CUT and not for_good else None,
            forget_at_s=max(now_s + KEPT_S, until_s or 0.0),
        )

    async def settled(self, user_id: str, client_id: str) -> None:
        """Return when a token for them would not count among those that were revoked: after a second at most.

        A token tells whole seconds. Without this, who logs in again within the second of a logout would be locked out.
        """
        until_s = self.denied.issuable_from_s(user_id, client_id) // 1 + 1 - self._clock()
        if until_s > 0:
            await asyncio.sleep(min(until_s, 1.0))

    async def load(self) -> None:
        """Read all. Raises StoreFailure."""
        self._horizon = EVER
        await self.catch_up()

    async def follow(self) -> None:
        """Read what is new, whenever the bell rings and twice a second, for as long as the service runs."""
        forgotten_at_s = self._monotonic()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(READ_EVERY_S):
                    await self._bell.wait()
            self._bell.clear()
            try:
                await self.catch_up()
                if self._monotonic() - forgotten_at_s >= FORGET_EVERY_S:
                    forgotten_at_s = self._monotonic()
                    await self._store.forget()
            except StoreFailure:
                self._horizon = EVER  # The store that comes back may be another one.
            self.denied.forget(self._clock())

    def ring(self) -> None:
        self._bell.set()

    @property
    def age_s(self) -> float:
        """How long ago the store was read."""
        return self._monotonic() - self._read_at_s

    @contextmanager
    def watched(self) -> Iterator[tuple[list[Revocation], Watcher]]:
        """All that is known now, and a watcher who is told the rest. Raises WatchEnded, StoreUnavailable."""
        if self._read_at_s == float("-inf"):
            raise StoreUnavailable  # Nothing known is not the same as nothing revoked.
        if self._dismissed or len(self._watchers) >= WATCHERS_MAX:
            raise WatchEnded
        watcher = Watcher()
        self._watchers.add(watcher)
        try:
            yield list(self.denied), watcher
        finally:
            self._watchers.discard(watcher)

    def dismiss(self) -> None:
        """Send all watchers to another replica, and take none any more: this one is about to end."""
        self._dismissed = True
        for watcher in self._watchers:
            watcher.lost = True
            watcher.stirred.set()

    async def catch_up(self) -> None:
        """Read what is new. Raises StoreFailure."""
        began_s = self._monotonic()
        read = await self._store.read(self._horizon)
        self._horizon, self._read_at_s = read.horizon, began_s
        self._learn(read.entries)

    def _learn(self, entries: Sequence[Revocation]) -> None:
        if new := self.denied.add(entries, now_s=self._clock()):
            for watcher in self._watchers:
                watcher.tell(new)
