"""Takes runs in and over, gives them their turns, lets go of them; one per replica.

The event loop is the lock: whatever touches the turns or the jobs does so without awaiting. A run that is accepted here
is leased to this replica. If the replica dies, another one finds the lease run out and goes on with the run; if it
stops, it gives its runs back; and a run that waits for people is nobody's, until one of them has answered.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from services.agent.authority import Authority
from services.agent.core.ids import Owner, RunId, ThreadId
from services.agent.core.run import CANCELLED, Ending
from services.agent.core.turns import Turns
from services.agent.feed import Feed
from services.agent.job import Job
from services.agent.leases import Held, Lease, Leases
from services.agent.ports import (
    Accepted,
    Access,
    Events,
    Mandates,
    NewRun,
    Retry,
    RunRecord,
    Runs,
    StoredEvent,
)
from services.agent.telemetry import AgentMetrics
from services.agent.watch import Watches
from services.agent.worker import Worker
from services.common.errors import StoreFailure
from services.common.tracing.current import current

log = structlog.get_logger(__name__)

TURN_PAUSE_MIN_S, TURN_PAUSE_MAX_S = 0.2, 1.0
ADOPTED_AT_ONCE_MAX = 100
TIDY_EVERY_S = 60.0
CLAIMED_S_MAX = 5.0  # For what a stopping replica has begun and nobody could make again.
CLEAR_S_MAX = 4.0  # For other replicas to end what is to be forgotten.


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often an engine does what nobody asks it to."""

    renew_s: float
    look_s: float = 1.0  # For runs that nobody works on.
    watched_for_s: float = 30.0  # How long a run that ends unwatched may go without a watcher.


class Engine:
    def __init__(  # noqa: PLR0913 - Called by the composition root alone.
        self,
        *,
        turns: Turns,
        worker: Worker,
        runs: Runs,
        leases: Leases,
        events: Events,
        mandates: Mandates,
        metrics: AgentMetrics,
        clock: Callable[[], float],
        pace: Pace,
    ) -> None:
        self._turns, self._worker = turns, worker
        self._runs, self._leases, self._watches = runs, leases, Watches(events)
        self._mandates, self._metrics, self._clock, self._pace = mandates, metrics, clock, pace
        self._jobs: dict[RunId, Job] = {}
        self._successors: dict[RunId, Job] = {}  # Of jobs that have yet to leave; bounded by them.
        self._tasks = asyncio.TaskGroup()
        self._stopping, self._stopped = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Keep leases, hear of cancellations, go on with what nobody works on; until `stop`."""
        async with self._tasks:
            self._tasks.create_task(self._repeat(self._keep, self._pace.renew_s, self._stopped))
            self._tasks.create_task(self._repeat(self._look, self._pace.look_s, self._stopping))
            self._tasks.create_task(self._repeat(self._watch, self._pace.watched_for_s / 3, self._stopping))
            self._tasks.create_task(self._repeat(self._runs.tidy, TIDY_EVERY_S, self._stopping))
            await self._stopped.wait()

    async def start(self, owner: Owner, new: NewRun, *, access: Access, retry: Retry | None) -> RunRecord:
        """Accept a run: it is committed, and is worked on even if the caller leaves just now.

        Raises TooManyRuns and what Runs.accept raises.
        """
        if retry is not None and (first := await self._runs.repeated(owner, retry)) is not None:
            return first
        self._turns.reserve(owner)
        accepted: asyncio.Future[RunRecord] = asyncio.get_running_loop().create_future()
        accepted.add_done_callback(lambda done: done.cancelled() or done.exception())  # Seen by us at least.
        self._tasks.create_task(self._accept(owner, new, access, retry, accepted))
        return await asyncio.shield(accepted)

    async def cancel(self, owner: Owner, run_id: RunId, *, rollback: bool = False) -> RunRecord:
        """End a run, wherever it works, and return it as it ended. Raises RunNotFound, RunBuiltUpon."""
        record = await self._runs.find(owner, run_id)
        if record.outcome is None:
            await self._runs.request_cancel(run_id, rollback=rollback)
            await self._end_here(run_id)
            async for _ in self._watches.watch(run_id, after_sequence=record.last_sequence):
                pass
        if rollback:
            await self._runs.roll_back(run_id)
        return await self._runs.find(owner, run_id)

    async def decided(self, run_id: RunId) -> None:
        """A question of the run was answered: go on with it, here if there is a place."""
        # A run that is here may just be let go, without a look at this answer: then it is found by who looks next.
        if run_id in self._jobs or not await self._take(run_id):
            await self._leases.wake(run_id)

    async def clear(self, owner: Owner, thread_id: ThreadId) -> None:
        """End the runs of a thread that is about to be forgotten; they can store nothing once it is."""
        run_ids = await self._runs.unfinished(owner, thread_id)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLEAR_S_MAX):
                # One that is forgotten by now, by another call, is as ended as can be.
                await asyncio.gather(
                    *(self.cancel(owner, run_id) for run_id in run_ids), return_exceptions=True
                )
        for run_id in run_ids:
            if (job := self._jobs.get(run_id)) is not None:
                await job.left.wait()

    def watch(self, run_id: RunId, *, after_sequence: int) -> AsyncIterator[StoredEvent]:
        """Every event after the given one, until the run has ended. Raises RunNotFound."""
        return self._watches.watch(run_id, after_sequence=after_sequence)

    def watching(self, run: RunRecord) -> Callable[[], None]:
        """Somebody watches the run, until what is returned is called."""
        if not run.is_watched:
            return lambda: None
        if run.run_id not in self._watches.counted():
            self._tasks.create_task(self._seen(run.run_id))
        return self._watches.count(run.run_id)

    def ages_s(self) -> dict[str, list[float]]:
        """How long each run of this replica has been waiting, or working. Also called by other threads."""
        now_s, ages = self._clock(), dict[str, list[float]](waiting=[], working=[])
        for job in list(self._jobs.values()):
            began_at_s = job.began_at_s
            state, since_s = ("waiting", job.came_at_s) if began_at_s is None else ("working", began_at_s)
            ages[state].append(max(0.0, now_s - since_s))
        return ages

    async def stop(self) -> None:
        """Give back what still works, and return when others can go on with it."""
        self._stopping.set()
        jobs = list(self._jobs.values())
        for job in jobs:
            self._tasks.create_task(self._hand_over(job))
        for job in jobs:
            await job.left.wait()
        self._stopped.set()

    async def _hand_over(self, job: Job) -> None:
        """Let others go on, but for a moment in which a call may return that nobody could make again."""
        if job.is_safe is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLAIMED_S_MAX):
                    await job.is_safe.wait()
        job.hand_over()
        self._skip(job)

    async def _accept(
        self,
        owner: Owner,
        new: NewRun,
        access: Access,
        retry: Retry | None,
        accepted: asyncio.Future[RunRecord],
    ) -> None:
        authority = Authority(self._mandates, clock=self._clock, access=access)
        leased: asyncio.Future[Lease | None] = asyncio.get_running_loop().create_future()
        authority.establish(self._tasks, leased, owner, self._leases)
        try:
            made = await self._runs.accept(owner, new, retry)
        except Exception as error:  # noqa: BLE001 - Its own caller learns of it; the other runs go on.
            self._turns.release(owner)
            leased.set_result(None)
            accepted.set_exception(error)
            return
        leased.set_result(made.lease)
        if made.lease is None:
            self._turns.release(owner)
        else:
            held = _held(owner, new, made, made.lease)
            self._add(Job(held=held, authority=authority, feed=Feed(), asked_by=current()))
        accepted.set_result(made.record)
        for run_id in made.displaced:
            await self._end_here(run_id)

    def _add(self, job: Job) -> None:
        """A run that has its place is this replica's to work on."""
        self._jobs[job.run_id] = job
        job.came_at_s = self._clock()
        self._watches.add(job.run_id, job.feed)
        self._metrics.accepted()
        if self._stopping.is_set():
            job.hand_over()
        self._queue(job)

    def _queue(self, job: Job) -> None:
        self._turns.queue(job.run_id, job.held.thread_id, position=job.held.position)
        if job.called_off.is_set():
            self._skip(job)
        self._dispatch()

    def _dispatch(self) -> None:
        for run_id in self._turns.next():
            job = self._jobs[run_id]
            self._metrics.turn(self._clock() - job.came_at_s)
            self._tasks.create_task(self._work(job))

    async def _end_here(self, run_id: RunId) -> None:
        """Have a run end that this replica, or nobody, holds."""
        await self._take(run_id)
        self._end(run_id, CANCELLED)

    def _end(self, run_id: RunId, ending: Ending) -> None:
        if (job := self._jobs.get(run_id)) is not None:
            job.end(ending)
            self._skip(job)

    def _skip(self, job: Job) -> None:
        """A run that is called off while it waits gets its turn for that alone.

        Turns know it by its name: one that has left may be here anew, and that is not called off.
        """
        if self._jobs.get(job.run_id) is job and self._turns.skip(job.run_id):
            self._tasks.create_task(self._work(job))

    async def _work(self, job: Job) -> None:
        has_left, job.began_at_s = True, self._clock()
        try:
            has_left = await self._worker.work(job)
        except Exception:
            # Its lease runs out; others go on.
            log.exception("run_abandoned", run_id=str(job.run_id))
        self._turns.done(job.run_id)
        if has_left:
            self._leave(job)
        self._dispatch()
        if not has_left:
            await self._come_again(job)
        elif job.has_ended and not job.held.is_batch:  # Those of a batch share a mandate.
            await job.authority.end()
        else:
            job.authority.leave()

    def _leave(self, job: Job) -> None:
        self._turns.release(job.held.owner, is_batch=job.held.is_batch)
        self._watches.remove(job.run_id)
        del self._jobs[job.run_id]
        self._metrics.left()
        job.left.set()

    async def _come_again(self, job: Job) -> None:
        """It was not the run's turn: an earlier one of its thread works at another replica, or waits for a person."""
        job.began_at_s = None
        job.pause_s = min(2 * job.pause_s or TURN_PAUSE_MIN_S, TURN_PAUSE_MAX_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(job.pause_s):
                await job.called_off.wait()
        self._queue(job)

    async def _take(self, run_id: RunId) -> bool:
        """Go on with a run that nobody holds, if there is a place for it. Return whether it is held here.

        It is to end, or a person has answered it.
        """
        if run_id not in self._jobs and self._turns.urgent_room and not self._stopping.is_set():
            taking = self._tasks.create_task(self._take_over(run_id))
            await asyncio.shield(taking)  # What is taken is worked on, even if the caller leaves just now.
        return run_id in self._jobs

    async def _take_over(self, run_id: RunId) -> None:
        with suppress(StoreFailure):  # Whoever looks next finds it.
            if (held := await self._leases.take(run_id)) is not None:
                self._adopted(held)

    async def _look(self) -> None:
        """Go on with runs that nobody works on, as far as there are places for them."""
        batch_count = sum(job.held.is_batch for job in self._jobs.values())
        found = await self._leases.adopt(
            count_max=min(self._turns.room, ADOPTED_AT_ONCE_MAX),
            batch_count_max=min(self._turns.room, self._turns.batch_room(batch_count)),
            urgent_count_max=min(self._turns.urgent_room, ADOPTED_AT_ONCE_MAX),
        )
        for held in found:
            self._adopted(held)

    def _adopted(self, held: Held) -> None:
        authority = Authority(self._mandates, clock=self._clock, mandate=held.mandate)
        job = Job(held=held, authority=authority, feed=Feed(last_sequence=held.last_sequence), is_taken=True)
        if held.is_cancelled:
            job.end(CANCELLED)
        if held.attempt_count:
            self._metrics.resumed()
            log.warning("run_resumed", run_id=str(job.run_id), attempt_count=held.attempt_count)
        has_place = job.run_id in self._successors
        if not has_place:
            self._turns.admit(held.owner, is_batch=held.is_batch)
        if (before := self._jobs.get(job.run_id)) is None:
            self._add(job)
            return
        self._successors[job.run_id] = job
        if not has_place:
            before.hand_over()  # This replica was thought dead, by itself: the lease that it had is void.
            self._tasks.create_task(self._after(before))

    async def _after(self, before: Job) -> None:
        self._skip(before)
        await before.left.wait()
        self._add(self._successors.pop(before.run_id))

    async def _keep(self) -> None:
        held = {**self._jobs, **self._successors}  # What has a successor has lost its lease.
        kept = await self._leases.keep([job.held.lease for job in held.values()])
        for run_id, job in held.items():
            if run_id not in kept:  # Forgotten, or others have it: nothing more of it can be stored.
                job.hand_over()
                self._skip(job)
            elif kept[run_id]:
                job.end(CANCELLED)
                self._skip(job)

    async def _seen(self, run_id: RunId) -> None:
        """It may have less time left than until its watchers are counted."""
        with suppress(StoreFailure):
            await self._runs.watched([run_id], for_s=self._pace.watched_for_s)

    async def _watch(self) -> None:
        if watched := self._watches.counted():
            await self._runs.watched(watched, for_s=self._pace.watched_for_s)

    async def _repeat(
        self, work: Callable[[], Awaitable[None]], every_s: float, until: asyncio.Event
    ) -> None:
        while not until.is_set():
            try:
                await work()
            except StoreFailure as error:
                log.warning("store_failed", reason=error.reason)
            with suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await until.wait()


def _held(owner: Owner, new: NewRun, made: Accepted, lease: Lease) -> Held:
    return Held(
        lease=lease,
        thread_id=new.thread_id,
        owner=owner,
        position=made.record.position,
        question=new.question,
        config=new.config,
        assistant_id=new.assistant_id,
        assistant_version=new.assistant_version,
    )
