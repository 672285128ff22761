"""Signs where the chain is at, each minute and at the end; and only what it has checked itself.

It follows the chain from the last head on, so that signing does not make good what somebody has changed in between. What
does not fit is logged, shown as a metric, and never signed over.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from services.auth.adapters.audit_signer import AuditSigner
from services.auth.adapters.postgres_audit import PostgresAudit, StoredHead
from services.auth.audit_reading import ChainReader, read_head
from services.auth.audit_witness import Witness
from services.auth.core.audit_chain import (
    GENESIS,
    HEAD_EVERY_S,
    Head,
    Place,
    Problem,
    digest_of,
    head_payload,
)
from services.common.errors import StoreFailure

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 10.0
RETRY_S = 0.5
END_S_MAX = 3.0  # For the last head, when the service ends.
ALL = 2**62


class AuditHeads:
    def __init__(
        self,
        store: PostgresAudit,
        signer: AuditSigner,
        witness: Witness,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._signer, self._witness, self._clock = store, signer, witness, clock
        self._checked: Place | None = None  # So far.
        self.problem: Problem | None = None
        # For metrics.
        self.looked_at_s = self.head_at_s = (
            0.0  # When the end of the chain was last seen, and the last head signed.
        )
        self.unsigned_count = 0  # Events behind the last head.

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            is_ready = self._signer.can_sign or await self._tried(self._load_keys)
            if is_ready:
                await self._tried(self.sign)
            await asyncio.sleep(LOOK_EVERY_S if is_ready else RETRY_S)

    async def end(self) -> None:
        """Sign what is left."""
        with suppress(TimeoutError):
            async with asyncio.timeout(END_S_MAX):
                await self._tried(self.sign_now)

    async def sign(self) -> None:
        """Sign if it is time."""
        await self._sign(at_once=False)

    async def sign_now(self) -> None:
        await self._sign(at_once=True)

    async def cut_off(self) -> Problem | None:
        """What is wrong if the chain no longer has what this machine has signed."""
        known = self._witness.place
        if known.sequence and await self._store.hash_at(known.sequence) != known.hash:
            return Problem(known.sequence, "the chain is not the one that was signed here before")
        return None

    async def _tried(self, work: Callable[[], Awaitable[None]]) -> bool:
        try:
            await work()
        except StoreFailure:
            return False
        return True

    async def _load_keys(self) -> None:
        if not self._signer.load(await self._store.keys(self._signer.make())):
            log.error("audit_keys_unreadable", mend="add their key to ENCRYPTION_KEY")

    async def _sign(self, *, at_once: bool) -> None:
        if not self._signer.can_sign or self.problem is not None:
            return
        last, now_s = await self._store.head_at(), self._clock()
        covered, end = (0 if last is None else last.sequence), (await self._store.at()).sequence
        read = None if last is None else read_head(self._signer, last)
        self._looked(now_s, 0.0 if read is None else read.time_s, unsigned_count=max(0, end - covered))
        if end < covered:
            self._found(Problem(end + 1, "events are missing that a signed head covers"))
        if end <= covered:
            return
        if read is not None and not at_once and now_s - read.time_s < HEAD_EVERY_S:
            return
        start = self._checked or await self._start(last)
        if start is None:
            return
        reader = await ChainReader.from_place(self._store, self._signer, start)
        await reader.read(ALL)
        if reader.check.problem is not None:
            self._found(reader.check.problem)
            return
        self._checked = reader.check.place
        await self._add(last, self._checked, int(now_s))

    async def _start(self, last: StoredHead | None) -> Place | None:
        """From where to check: the last head, or the beginning."""
        self.problem = await self.cut_off()
        if self.problem is not None:
            self._found(self.problem)
            return None
        if last is None:
            return Place()
        read = read_head(self._signer, last)
        if read is None or await self._store.hash_at(read.place.sequence) != read.place.hash:
            self._found(Problem(last.sequence, "the last signed head does not fit the chain"))
            return None
        return read.place

    async def _add(self, last: StoredHead | None, place: Place, now_s: int) -> None:
        number = 1 if last is None else last.number + 1
        previous = GENESIS if last is None else digest_of(last.signed)
        payload = head_payload(Head(number=number, place=place, time_s=now_s, previous=previous))
        await self._store.add_head(StoredHead(number, place.sequence, self._signer.sign(payload)))
        self._witness.remember(place)
        self._looked(now_s, now_s, unsigned_count=0)
        log.info("audit_head", sequence=place.sequence, hash=place.hash.hex())

    def _looked(self, now_s: float, head_at_s: float, *, unsigned_count: int) -> None:
        self.looked_at_s, self.head_at_s, self.unsigned_count = now_s, head_at_s, unsigned_count

    def _found(self, problem: Problem) -> None:
        self.problem = problem
        log.error("audit_chain_broken", sequence=problem.sequence, problem=problem.what)
