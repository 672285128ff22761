"""The way of an event from who tells it to the chain, which whoever tells it need not wait for.

    noted ──▶ queue in memory ──▶ delivered: a batch, once the one before has arrived
                    │ the chain is away, or earlier events wait on disk
                    └──▶ spool on disk ──▶ delivered, oldest first, when the chain is back

Order is kept: as long as anything is in the spool, what is new goes behind it. Each event has an id and counts once,
however often it is delivered; so a batch whose answer was lost is simply sent again. `assure` returns when its event is
in the chain or in the spool, both of which survive a crash; what was only noted and still waits in memory does not:
normally some milliseconds' worth.

Full is a queue at its bound beside a spool that takes no more. Then `assure` refuses, and `note` drops, counts, logs, and
tells the chain how many were lost as soon as anything can be told.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import structlog

from services.common.audit import Action, Happened, Outcome
from services.common.auditing.metrics import AuditMetrics
from services.common.auditing.records import Record, decoded, encoded, record_of
from services.common.auditing.spool import Spool, SpoolFull
from services.common.beside import beside
from services.common.errors import AuditUnavailable

BATCH_MAX = 500  # Some milliseconds of work; then others have the loop.
BATCH_MIN = 16  # Where the chain is so slow that it does not take more in time.
QUEUE_MAX = 20_000
DELIVER_S_MAX = 2.0
ASSURE_S_MAX = 3.0  # One delivery that hangs, and a write to disk.
RETRY_S = 0.25
RETRY_S_MAX = 5.0
PAUSE_S = 0.01
CLOSE_S_MAX = 3.0
COMPLAIN_EVERY_S = 1.0

log = structlog.get_logger(__name__)


class ChainAway(Exception):
    """The chain took nothing, or did not say so. The same records may be given again."""


class RecordsRefused(Exception):
    """One of the records is of a kind that the chain will never take: a bug of ours."""


# Returns when the records are part of the chain. Raises ChainAway or RecordsRefused.
Deliver = Callable[[Sequence[Record]], Awaitable[None]]


@dataclass(slots=True, eq=False)
class _Waiting:
    """An event in memory, and who waits for it to be safe. It becomes a record when its turn comes: `note` is quick."""

    happened: Happened
    time_ns: int = field(default_factory=time.time_ns)
    assured: asyncio.Future[None] | None = None
    record: Record | None = None

    def recorded(self, service: str) -> Record:
        if self.record is None:
            self.record = record_of(self.happened, service=service, time_ns=self.time_ns)
        return self.record

    def is_safe(self) -> None:
        if self.assured is not None and not self.assured.done():
            self.assured.set_result(None)

    def is_refused(self) -> None:
        if self.assured is not None and not self.assured.done():
            self.assured.set_exception(AuditUnavailable())

    @property
    def is_given_up(self) -> bool:
        return self.assured is not None and self.assured.done()


class BufferedTrail:
    """A Trail whose events `deliver` takes to the chain. The loop is the lock: only `_work` takes from the queue."""

    def __init__(
        self,
        service: str,
        deliver: Deliver,
        *,
        spool: Spool | None,
        metrics: AuditMetrics,
        queue_max: int = QUEUE_MAX,
    ) -> None:
        self._service, self._deliver, self._spool, self._metrics = service, deliver, spool, metrics
        self._queue: deque[_Waiting] = deque()
        self._queue_max = queue_max
        self._taken_count = 0  # Out of the queue, and not yet anywhere else.
        self._some = asyncio.Event()
        self._closing, self._ended = asyncio.Event(), asyncio.Event()
        self._batch_max = BATCH_MAX
        self._retry_s = RETRY_S
        self._deliver_at_s = self._keep_at_s = 0.0  # Not before that.
        self._lost_count = 0
        self._complained_at_s = float("-inf")

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, service: str, deliver: Deliver, *, spool: Spool | None, metrics: AuditMetrics
    ) -> AsyncIterator["BufferedTrail"]:
        """One that works while the block runs, and at its end brings to safety what it has."""
        trail = cls(service, deliver, spool=spool, metrics=metrics)
        async with beside(trail.run(), name="audit"):
            try:
                yield trail
            finally:
                await trail.close()

    # ---- Telling ----------------------------------------------------------------------------------

    def note(self, happened: Happened) -> None:
        if len(self._queue) >= self._queue_max:
            self._lose(1)
            return
        self._put(_Waiting(happened))

    async def assure(self, happened: Happened) -> None:
        if len(self._queue) >= self._queue_max:
            raise AuditUnavailable
        assured: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._put(_Waiting(happened, assured=assured))
        try:
            async with asyncio.timeout(ASSURE_S_MAX):
                await assured
        except TimeoutError:
            raise AuditUnavailable from None
        finally:
            assured.cancel()  # Given up, if it is not done: what was refused is not to be told as done.

    @property
    def waiting_count(self) -> int:
        return len(self._queue)

    @property
    def is_settled(self) -> bool:
        """Whether all that was told is in the chain."""
        return not self._queue and not self._taken_count and self._spool_is_empty and not self._lost_count

    # ---- Working ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until closed, and then until nothing is left in memory."""
        while True:
            self._some.clear()
            while await self._step():
                self._taken_count = 0
            self._taken_count = 0
            self._show()
            if self._closing.is_set() and not self._queue:
                self._ended.set()
                return
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._next_at_s()):
                    await self._some.wait()

    async def close(self) -> None:
        """Have `run` bring to safety what there is in memory, and end; not for ever."""
        self._closing.set()
        self._deliver_at_s = self._keep_at_s = 0.0
        self._some.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S_MAX):
                await self._ended.wait()
        if self._queue:
            log.error("audit_events_lost", lost_count=len(self._queue))

    async def _step(self) -> bool:
        """Do what is next. False when nothing is, or nothing that can be done yet."""
        now_s = self._now_s()
        may_deliver, may_keep = now_s >= self._deliver_at_s, now_s >= self._keep_at_s
        if self._spool_is_empty and may_deliver:
            if self._lost_count:
                self._tell_lost()
            return await self._send(self._take())
        has_done = False
        if self._queue and may_keep:  # Behind what waits on disk already.
            has_done = await self._keep(self._take())
        if may_deliver and not self._closing.is_set():
            has_done |= await self._replay()
        return has_done

    async def _send(self, batch: list[_Waiting]) -> bool:
        """To the chain; to the spool if it is away. Whether either has it."""
        if not batch:
            return False
        if not await self._delivered(self._records(batch)):
            return await self._keep(batch)
        for each in batch:
            each.is_safe()
        return True

    async def _replay(self) -> bool:
        """The oldest of the spool to the chain. Whether there was any, and it has it."""
        if self._spool is None:
            return False
        payloads = await asyncio.to_thread(self._spool.oldest, self._batch_max)
        records = [record for payload in payloads if (record := decoded(payload)) is not None]
        if unread_count := len(payloads) - len(records):
            self._lose(unread_count)
        if not payloads or (records and not await self._delivered(records)):
            return False
        await asyncio.to_thread(self._spool.forget, len(payloads))
        return True

    async def _delivered(self, records: list[Record]) -> bool:
        """Whether the chain has them, or will never take them."""
        try:
            async with asyncio.timeout(DELIVER_S_MAX):
                await self._deliver(records)
        except (ChainAway, TimeoutError):
            self._deliver_at_s = self._now_s() + self._retry_s
            self._retry_s = min(self._retry_s * 2, RETRY_S_MAX)
            self._batch_max = max(self._batch_max // 2, BATCH_MIN)
            return False
        except RecordsRefused:
            return await self._delivered_singly(records)
        self._retry_s = RETRY_S
        self._batch_max = min(self._batch_max * 2, BATCH_MAX)
        self._metrics.chained(len(records))
        return True

    async def _delivered_singly(self, records: list[Record]) -> bool:
        """One that is refused must not stop all others for ever."""
        if len(records) > 1:
            for record in records:
                if not await self._delivered([record]):
                    return False
            return True
        log.error("audit_event_refused", action=records[0].happened.action.name)
        self._lose(1)
        return True

    async def _keep(self, batch: list[_Waiting]) -> bool:
        """To the spool; where that fails, back into memory, and whoever waits is refused. Whether it is safe."""
        if not batch:
            return True
        try:
            if self._spool is None:
                raise SpoolFull
            await asyncio.to_thread(self._spool.append, [encoded(record) for record in self._records(batch)])
        except SpoolFull:
            for each in batch:
                each.is_refused()
            self._queue.extendleft(reversed([each for each in batch if each.assured is None]))
            self._complain("audit_not_safe", waiting_count=len(self._queue))
            self._keep_at_s = self._now_s() + RETRY_S
            return False
        self._metrics.spooled(len(batch))
        for each in batch:
            each.is_safe()
        return True

    def _records(self, batch: list[_Waiting]) -> list[Record]:
        return [each.recorded(self._service) for each in batch]

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        while self._queue and len(batch) < self._batch_max:
            if not (first := self._queue.popleft()).is_given_up:
                batch.append(first)
        self._taken_count = len(batch)
        return batch

    def _put(self, waiting: _Waiting) -> None:
        self._queue.append(waiting)
        self._some.set()

    # ---- Losing -----------------------------------------------------------------------------------

    def _lose(self, count: int) -> None:
        self._lost_count += count
        self._metrics.lost(count)
        self._complain("audit_events_lost", lost_count=self._lost_count)
        self._some.set()

    def _tell_lost(self) -> None:
        """As an event of its own, so that the gap can be seen where people look."""
        lost = Happened(
            action=Action.EVENTS_LOST, outcome=Outcome.FAILED, details={"count": str(self._lost_count)}
        )
        self._lost_count = 0
        self._put(_Waiting(lost))

    def _complain(self, event: str, **facts: int) -> None:
        if self._now_s() - self._complained_at_s >= COMPLAIN_EVERY_S:
            self._complained_at_s = self._now_s()
            log.error(event, **facts)

    def _show(self) -> None:
        held = 0 if self._spool is None else self._spool.bytes_held
        self._metrics.holding(waiting_count=len(self._queue), spool_bytes=held)

    def _next_at_s(self) -> float | None:
        """When to try again what cannot be done now; None when there is nothing to do."""
        if self.is_settled:
            return None
        at_s = min(self._deliver_at_s, self._keep_at_s) if self._queue else self._deliver_at_s
        return max(at_s, self._now_s() + PAUSE_S)

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

    @property
    def _spool_is_empty(self) -> bool:
        return self._spool is None or self._spool.is_empty
