"""Takes runs in, gives them their turns, ends them; one per replica.

The event loop is the lock: whatever touches the turns or the jobs does so without awaiting. A run that
is accepted here is leased to this replica, works here and ends here; if the replica dies, another one
finds the lease run out and ends the run in its place.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import structlog

from services.agent.core.ids import Owner, RunId, ThreadId
from services.agent.core.run import CANCELLED, LOST, Ending, Run
from services.agent.core.turns import Turns
from services.agent.errors import LeaseLost
from services.agent.journal import batch_of
from services.agent.ports import Events, NewRun, Orphan, Retry, RunRecord, Runs, StoredEvent
from services.agent.telemetry import AgentMetrics
from services.agent.watch import Watches
from services.agent.worker import Job, Worker
from services.common.errors import StoreFailure

log = structlog.get_logger(__name__)

TURN_POLL_S = 0.2


class Engine:
    def __init__(  # noqa: PLR0913 - Called by the composition root alone.
        self,
        *,
        turns: Turns,
        worker: Worker,
        runs: Runs,
        events: Events,
        metrics: AgentMetrics,
        clock: Callable[[], float],
        renew_every_s: float,
    ) -> None:
        self._turns, self._worker = turns, worker
        self._runs, self._events, self._watches = runs, events, Watches(events)
        self._metrics, self._clock, self._renew_every_s = metrics, clock, renew_every_s
        self._jobs: dict[RunId, Job] = {}
        self._tasks = asyncio.TaskGroup()
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Keep leases, hear of cancellations, end what dead replicas left; until `stop`."""
        async with self._tasks:
            while not self._stopping.is_set():
                try:
                    await self._keep()
                    await self._bury()
                except StoreFailure as error:
                    log.warning("store_failed", reason=error.reason)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._renew_every_s):
                        await self._stopping.wait()

    async def start(self, owner: Owner, new: NewRun, *, token: str, retry: Retry | None) -> RunRecord:
        """Accept a run: it is committed, and is worked on even if the caller leaves just now.

        Raises TooManyRuns and what Runs.accept raises.
        """
        if retry is not None and (first := await self._runs.repeated(owner, retry)) is not None:
            return first
        self._turns.reserve(owner)
        accepted: asyncio.Future[RunRecord] = asyncio.get_running_loop().create_future()
        accepted.add_done_callback(lambda done: done.cancelled() or done.exception())  # Seen by us at least.
        self._tasks.create_task(self._accept(Job(owner=owner, new=new, token=token), retry, accepted))
        return await asyncio.shield(accepted)

    async def cancel(self, owner: Owner, run_id: RunId) -> RunRecord:
        """End a run, wherever it works, and return it as it ended. Raises RunNotFound."""
        record = await self._runs.find(owner, run_id)
        if record.outcome is not None:
            return record
        await self._runs.request_cancel(run_id)
        self._end(run_id, CANCELLED)
        async for _ in self._watches.watch(run_id, after_sequence=record.last_sequence):
            pass
        return await self._runs.find(owner, run_id)

    async def clear(self, owner: Owner, thread_id: ThreadId) -> None:
        """End the runs of a thread that is about to be forgotten, as far as they are held here.

        Other replicas notice when they next renew, and can store nothing until then.
        """
        for run_id in await self._runs.unfinished(owner, thread_id):
            if (job := self._jobs.get(run_id)) is not None:
                self._end(run_id, CANCELLED)
                await job.left.wait()

    def watch(self, run_id: RunId, *, after_sequence: int) -> AsyncIterator[StoredEvent]:
        """Every event after the given one, until the run has ended. Raises RunNotFound."""
        return self._watches.watch(run_id, after_sequence=after_sequence)

    async def stop(self) -> None:
        """End what still works, and return when that is committed."""
        jobs = list(self._jobs.values())
        for job in jobs:
            self._end(job.new.run_id, LOST)
        for job in jobs:
            await job.left.wait()
        self._stopping.set()

    async def _accept(self, job: Job, retry: Retry | None, accepted: asyncio.Future[RunRecord]) -> None:
        try:
            record, is_new = await self._runs.accept(job.owner, job.new, retry)
        except Exception as error:  # noqa: BLE001 - Its own caller learns of it; the other runs go on.
            self._turns.release(job.owner)
            accepted.set_exception(error)
            return
        if is_new:
            job.position = record.position
            self._jobs[record.run_id] = job
            self._watches.add(record.run_id, job.feed)
            self._metrics.accepted()
            self._queue(job)
        else:
            self._turns.release(job.owner)
        accepted.set_result(record)

    def _queue(self, job: Job) -> None:
        self._turns.queue(job.new.run_id, job.new.thread_id, position=job.position)
        self._dispatch()

    def _dispatch(self) -> None:
        for run_id in self._turns.next():
            self._tasks.create_task(self._work(self._jobs[run_id]))

    def _end(self, run_id: RunId, ending: Ending) -> None:
        """Have a run of this replica end; one that waits gets its turn for that alone."""
        if (job := self._jobs.get(run_id)) is None:
            return
        job.end(ending)
        if self._turns.skip(run_id):
            self._tasks.create_task(self._work(job))

    async def _work(self, job: Job) -> None:
        has_left = True
        try:
            has_left = await self._worker.work(job)
        except Exception:
            # Its lease runs out; the others go on.
            log.exception("run_abandoned", run_id=str(job.new.run_id))
        self._turns.done(job.new.run_id)
        if has_left:
            self._leave(job)
        self._dispatch()
        if not has_left:
            await self._come_again(job)

    def _leave(self, job: Job) -> None:
        self._turns.release(job.owner)
        self._watches.remove(job.new.run_id)
        del self._jobs[job.new.run_id]
        self._metrics.left()
        job.left.set()

    async def _come_again(self, job: Job) -> None:
        """It was not the run's turn: an earlier one of its thread works at another replica."""
        await asyncio.sleep(TURN_POLL_S)
        self._queue(job)
        if job.verdict is not None:
            self._end(job.new.run_id, job.verdict)

    async def _keep(self) -> None:
        held = list(self._jobs)
        kept = await self._runs.keep(held)
        for run_id in held:
            if run_id not in kept:
                self._end(run_id, LOST)  # Forgotten or adopted: nothing more of it can be stored.
            elif kept[run_id]:
                self._end(run_id, CANCELLED)

    async def _bury(self) -> None:
        for orphan in await self._runs.adopt():
            with suppress(LeaseLost):
                await self._bury_one(orphan)

    async def _bury_one(self, orphan: Orphan) -> None:
        told = await self._events.told(orphan.run_id)
        run = Run.replayed(told, model=orphan.config.model, limits=orphan.config.limits)
        if run.ended:  # It was this replica's own, which ended it by itself while it was adopted.
            return
        now_s = self._clock()
        entries = run.end(CANCELLED if orphan.cancel_requested else LOST, now_s=now_s)
        batch = batch_of(entries, first_sequence=len(told) + 1, time_s=now_s, usage=run.used)
        await self._events.append(orphan.run_id, batch)
        self._metrics.buried()
        log.warning("run_lost", run_id=str(orphan.run_id))
