"""What a process does for batches: takes items while it has places, has them answered, and writes what came of it.

Two loops speak with the store, so that no item waits for another's result to be written:

    fill    takes items for the places that are free           never waits for a lock
    keep    writes what has ended, all of it at once; says     says one thing at a time, so it cannot wait for itself
            which items are still ours, and hears which are not

An item that is not ours any more (its batch was cancelled, or its lease has passed) is given up within half a second.
What a process has when it ends is put back; what it has when it is killed is taken by another when the lease has passed.
"""

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog

from services.common.errors import MeshError, StoreFailure
from services.inference.batches.answering import Answerer, failed
from services.inference.batches.ports import Claim, Done, Held, Items, PutBack
from services.inference.batches.telemetry import BatchMetrics
from services.inference.core.batches import ATTEMPTS_MAX, Open, Turns, Verdict, delay_s, share, verdict
from services.inference.errors import BatchExpired, ItemPoisoned

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 0.5  # For items to take, and for whether those that run are still ours.
STORE_RETRY_S = 0.5
HAND_OVER_S = 2.0  # Longest that the end of a process waits for the store.
SEIZED_AT_ONCE = 100
SWEEPS_MAX = 500  # At once; the next time goes on.


@dataclass(slots=True)
class _Running:
    held: Held
    task: asyncio.Task[None]
    is_lost: bool = False


class BatchWorker:
    """Works on the items of all batches, `places` at a time."""

    def __init__(
        self,
        items: Items,
        answer: Answerer,
        metrics: BatchMetrics,
        *,
        places: int,
        lease_s: float,
        sweep_every_s: float,
    ) -> None:
        self._items = items
        self._answer = answer
        self._metrics = metrics
        self._places = places
        self._lease_s = lease_s
        self._sweep_every_s = sweep_every_s
        self._turns = Turns()
        self._open: list[Open] = []  # As last seen,
        self._look_at_s = 0.0  # and when to look again.
        self._suspect_at_s = 0.0
        self._renew_at_s = 0.0
        self._running: dict[Claim, _Running] = {}
        self._ended: list[Done | PutBack] = []  # Not written yet.
        self._changed = asyncio.Event()  # For the one that fills,
        self._news = asyncio.Event()  # and for the one that keeps.
        metrics.watch(lambda: len(self._running))

    def nudge(self) -> None:
        """Hear that there is a new batch."""
        self._look_at_s = 0.0
        self._changed.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until cancelled; after `stop`, only on what was begun."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._sweep_all(), name="batches: sweep")
                if self._places:
                    tasks.create_task(self._fill_all(tasks, stop), name="batches: fill")
                    tasks.create_task(self._keep_all(), name="batches: keep")
        finally:
            with suppress(StoreFailure, TimeoutError):  # Then the leases do it.
                async with asyncio.timeout(HAND_OVER_S):
                    await self._write()

    # Filling

    async def _fill_all(self, tasks: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self._changed.clear()
            taken: Sequence[Held] = ()
            with suppress(StoreFailure):
                taken = await self._take() if self._free_count else ()
            for held in taken:
                task = tasks.create_task(self._work(held), name="batches: item")
                self._running[held.claim] = _Running(held, task)
            if not taken:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await self._changed.wait()

    @property
    def _free_count(self) -> int:
        # While the store takes no results, no more are made than fit the places once more.
        return self._places - len(self._running) if len(self._ended) < self._places else 0

    @property
    def _has_suspect(self) -> bool:
        # Until its result is written: else the next one could take that with it.
        return any(one.held.is_suspect for one in (*self._running.values(), *self._ended))

    async def _take(self) -> Sequence[Held]:
        now_s = _now_s()
        if now_s >= self._suspect_at_s and not self._has_suspect:
            if (suspect := await self._items.take_suspect()) is not None:
                return (suspect,)
            self._suspect_at_s = now_s + LOOK_EVERY_S
        paused = self._turns.paused(now_s)
        if now_s >= self._look_at_s:
            self._open = list(await self._items.open(paused=paused))
            self._look_at_s = now_s + LOOK_EVERY_S
        self._open = [batch for batch in self._open if batch.batch_id not in paused]
        if not self._open:
            return ()
        batch = self._turns.next(self._open)
        count_max = share(self._free_count, len(self._open))
        taken = await self._items.take(batch.batch_id, count_max=count_max)
        if len(taken) < count_max:
            self._open.remove(batch)
            if taken:  # The organisation may have another one.
                self._look_at_s = 0.0
        return taken

    # One item

    async def _work(self, held: Held) -> None:
        ended: Done | PutBack = PutBack(
            held=held, delay_s=0.0, counts=False
        )  # If the process ends before it does.
        try:
            ended = await self._ending(held)
        finally:
            running = self._running.pop(held.claim)
            if running.is_lost:
                self._metrics.left("lost")
            else:
                self._ended.append(ended)
                self._news.set()
            self._changed.set()

    async def _ending(self, held: Held) -> Done | PutBack:
        if held.attempt_count > ATTEMPTS_MAX:  # Its workers never said what became of it.
            return failed(held, ItemPoisoned(attempt_count=ATTEMPTS_MAX, last_reason="WORKER_LOST"))
        try:
            done = await self._answer(held)
        except Exception as error:  # noqa: BLE001 - It is this item's; the others go on.
            return self._judged(held, error)
        self._turns.answered(held.place.batch_id)
        return done

    def _judged(self, held: Held, error: Exception) -> Done | PutBack:
        reason = error.reason if isinstance(error, MeshError) else "INTERNAL"
        found = verdict(error)
        if found is Verdict.FINAL and isinstance(error, MeshError):
            self._turns.answered(held.place.batch_id)
            return failed(held, error)
        if found is Verdict.RETRY and held.attempt_count >= ATTEMPTS_MAX:
            return failed(held, ItemPoisoned(attempt_count=held.attempt_count, last_reason=reason))
        if not isinstance(error, MeshError):
            log.error("bug", of="a batch's item", exc_info=error)
        self._turns.refused(held.place.batch_id, _now_s())
        return PutBack(
            held=held,
            delay_s=delay_s(
                held.put_back_count,
                at_least_s=error.retry_after_s if isinstance(error, MeshError) else None,
                chance=random.random(),  # noqa: S311 - It spreads, and guards nothing.
            ),
            counts=found is Verdict.RETRY,
        )

    # Keeping

    async def _keep_all(self) -> None:
        look_every_s = min(LOOK_EVERY_S, self._lease_s / 3)
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(look_every_s):
                    await self._news.wait()
            self._news.clear()
            try:
                await self._write()
                await self._keep()
            except StoreFailure:
                await asyncio.sleep(STORE_RETRY_S)

    async def _write(self) -> None:
        """Write what has ended. What the store may not have taken is written again: it takes nothing twice."""
        ended = tuple(self._ended)
        done = [one for one in ended if isinstance(one, Done)]
        written = await self._items.finish(done)
        await self._items.put_back([one for one in ended if isinstance(one, PutBack)])
        del self._ended[: len(ended)]
        for one in done:
            if one.held.claim not in written:
                self._metrics.left("lost")
            else:
                self._metrics.left("succeeded" if one.succeeded else "failed")
        self._metrics.left("put_back", len(ended) - len(done))
        self._changed.set()

    async def _keep(self) -> None:
        now_s = _now_s()
        renew = now_s >= self._renew_at_s
        asked = list(self._running.values())
        kept = await self._items.keep([one.held for one in asked], renew=renew)
        if renew:
            self._renew_at_s = now_s + self._lease_s / 3
        for one in asked:
            if one.held.claim not in kept and not one.task.done():
                one.is_lost = True
                one.task.cancel()

    # Sweeping

    async def _sweep_all(self) -> None:
        while True:
            # Not all processes at the same moment.
            await asyncio.sleep(self._sweep_every_s * (0.5 + random.random()))  # noqa: S311
            with suppress(StoreFailure):
                await self._sweep()

    async def _sweep(self) -> None:
        for _ in range(SWEEPS_MAX):
            overdue = await self._items.seize_overdue(count_max=SEIZED_AT_ONCE)
            await self._items.finish([failed(held, BatchExpired()) for held in overdue])
            swept = await self._items.sweep()
            if not overdue and not any(swept.values()):
                return


def _now_s() -> float:
    return asyncio.get_running_loop().time()
