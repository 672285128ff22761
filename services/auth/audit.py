"""The audit log as the auth service has it: where every service's events end up, and where its own begin."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from services.auth.adapters.audit_signer import AuditSigner, Seal
from services.auth.adapters.postgres_audit import Link, PostgresAudit, Wanted, connected
from services.auth.audit_appender import AuditAppender
from services.auth.audit_heads import AuditHeads
from services.auth.audit_metrics import heads_watched
from services.auth.audit_reading import ChainReader
from services.auth.audit_witness import Witness
from services.auth.core.audit_chain import Place, Problem
from services.auth.errors import RateLimited
from services.common.audit import Trail
from services.common.auditing.config import AuditConfig
from services.common.auditing.opening import opened_trail
from services.common.auditing.records import Record
from services.common.auditing.trail import ChainAway
from services.common.beside import beside
from services.common.errors import StoreFailure
from services.common.postgres_metrics import PoolMetrics

VERIFIED_MAX = 500_000  # Events checked for one answer.
VERIFICATIONS_MAX = 1  # At a time: each is work for this process that nobody else waits for.
SERVICE = "auth"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found, up to the event that was checked last."""

    problem: Problem | None
    event_count: int
    head_count: int
    last: Place
    is_complete: bool


class AuditLog:
    def __init__(
        self,
        *,
        trail: Trail,
        store: PostgresAudit,
        appender: AuditAppender,
        heads: AuditHeads,
        signer: AuditSigner,
    ) -> None:
        self.trail = trail
        self._store, self._appender, self._heads, self._signer = store, appender, heads, signer
        self._places = asyncio.Semaphore(VERIFICATIONS_MAX)

    async def record(self, records: Sequence[Record]) -> int:
        """Make events part of the chain that are not yet; return where it is at. Raises StoreFailure."""
        return await self._appender.append(records)

    async def reseal(self, renew: Callable[[bytes], bytes | None]) -> int:
        """Have the keys of heads sealed anew; return how many were. Raises StoreFailure."""
        return await self._store.reseal(renew)

    async def page(self, wanted: Wanted) -> tuple[list[Link], int | None]:
        """Raises StoreFailure."""
        return await self._store.page(wanted)

    async def verify(self, start: Place) -> Verdict:
        """Check the chain from an event on that the caller knows. Raises StoreFailure and RateLimited."""
        if self._places.locked():
            raise RateLimited
        async with self._places:
            return await self._verdict(start)

    async def _verdict(self, start: Place) -> Verdict:
        problem = await self._missing(start) or await self._heads.cut_off()
        if problem is not None:
            return Verdict(problem=problem, event_count=0, head_count=0, last=start, is_complete=True)
        reader = await ChainReader.from_place(self._store, self._signer, start)
        is_complete = await reader.read(VERIFIED_MAX)
        if is_complete:
            reader.check.signed_by(time.time_ns() // 1000)
        check = reader.check
        return Verdict(
            problem=check.problem,
            event_count=check.entry_count,
            head_count=check.head_count,
            last=check.place,
            is_complete=is_complete,
        )

    async def _missing(self, known: Place) -> Problem | None:
        if known.sequence and await self._store.hash_at(known.sequence) != known.hash:
            return Problem(known.sequence, "an event that was checked before is missing, or is another")
        return None


@asynccontextmanager
async def audit_log(
    database_url: str,
    config: AuditConfig,
    seal: Seal,
    registry: CollectorRegistry,
    pool: PoolMetrics | None = None,
) -> AsyncIterator[AuditLog]:
    """The log, for as long as the service runs; at its end, what was told is safe and signed."""
    async with AsyncExitStack() as opened:
        store = PostgresAudit(await opened.enter_async_context(connected(database_url, pool)))
        appender = await opened.enter_async_context(AuditAppender.opened(store))
        signer = AuditSigner(seal)
        heads = AuditHeads(store, signer, Witness(config.spool))
        await opened.enter_async_context(_signing(heads, registry))

        async def deliver(records: Sequence[Record]) -> None:
            try:
                await appender.append(records)
            except StoreFailure as error:
                raise ChainAway from error

        trail = await opened.enter_async_context(opened_trail(config, SERVICE, deliver, registry))
        yield AuditLog(trail=trail, store=store, appender=appender, heads=heads, signer=signer)


@asynccontextmanager
async def _signing(heads: AuditHeads, registry: CollectorRegistry) -> AsyncIterator[None]:
    heads_watched(registry, heads)
    async with beside(heads.run(), name="audit heads"):
        yield
    await heads.end()
