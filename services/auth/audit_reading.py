"""Reads the chain and its heads side by side, a bounded number at a time, for whoever checks them."""

import asyncio
from collections import deque
from typing import Protocol

from services.auth.adapters.postgres_audit import Link, PostgresAudit, StoredHead
from services.auth.core.audit_chain import GENESIS, Check, Head, Place, digest_of, head_of

LINKS_AT_ONCE = 250  # Some milliseconds of work; then others have the loop.


class Reads(Protocol):
    """Our signature on a head."""

    def read(self, signed: str) -> bytes | None: ...


class ChainReader:
    """One check, that goes on from where it was as long as it is asked to."""

    def __init__(self, store: PostgresAudit, signer: Reads, check: Check, *, head_number: int) -> None:
        self.check = check
        self._store, self._signer = store, signer
        self._head_number = head_number  # The last that was fetched.
        self._heads: deque[StoredHead] = deque()

    @classmethod
    async def from_place(cls, store: PostgresAudit, signer: Reads, start: Place) -> "ChainReader":
        """From an event that is known."""
        before = await store.head_at(start.sequence) if start.sequence else None
        number, digest = (before.number, digest_of(before.signed)) if before else (0, GENESIS)
        check = Check(start, head_number=number, head_digest=digest)
        return cls(store, signer, check, head_number=number)

    async def read(self, count_max: int) -> bool:
        """Check so many events more, or a few above. Whether that was the end, or a problem is found."""
        goal = self.check.entry_count + count_max
        while self.check.problem is None and self.check.entry_count < goal:
            await self._fetch_heads()
            links = await self._store.links(self.check.place.sequence, LINKS_AT_ONCE)
            if not links:
                self._show_head()  # One that covers what is not there.
                self.check.ended()
                return True
            self._show(links)
            await asyncio.sleep(0)
        return self.check.problem is not None

    async def _fetch_heads(self) -> None:
        # Each covers an event at least, so these last for as many events.
        if len(self._heads) < LINKS_AT_ONCE:
            self._heads += await self._store.heads(self._head_number, 2 * LINKS_AT_ONCE)
            if self._heads:
                self._head_number = self._heads[-1].number

    def _show(self, links: list[Link]) -> None:
        for link in links:
            self._show_head()
            self.check.entry(link.entry, link.hash)

    def _show_head(self) -> None:
        if self.check.wants_head and self._heads:
            head = self._heads.popleft()
            self.check.head(head.signed, read_head(self._signer, head))


def read_head(signer: Reads, head: StoredHead) -> Head | None:
    payload = signer.read(head.signed)
    return None if payload is None else head_of(payload)
