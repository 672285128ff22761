"""Works on one run: from its turn on the thread, or from where others left it, to its last event or to whoever is next."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import structlog

from services.agent.agents import Agent, Assignment
from services.agent.core.approvals import EXPIRED, Decided, is_too_late
from services.agent.core.conversation import Message, Role, from_a_question
from services.agent.core.events import Status
from services.agent.core.record import Record
from services.agent.core.run import LOST, Ending, Run
from services.agent.core.taint import Taint
from services.agent.errors import (
    AccessEnded,
    LeaseLost,
    LimitReached,
    ModelFailed,
    OutputInvalid,
    PiiBlocked,
    Waits,
)
from services.agent.job import Job
from services.agent.journal import Journal
from services.agent.leases import Lease, Leases
from services.agent.observing import Observed, Observing
from services.agent.patience import patiently
from services.agent.ports import Approvals, Events
from services.agent.recorder import RunRecorder
from services.agent.summaries import Summaries
from services.agent.telemetry import AgentMetrics
from services.agent.tracing import Traced
from services.common.errors import StoreFailure
from services.common.tracing.current import enter

log = structlog.get_logger(__name__)

HISTORY_COUNT_MAX = 200  # Messages of the thread that the model is given; the inference API takes 1,024.
ATTEMPTS_MAX = 5  # Replicas that may be lost with a run: one that kills each of them must end.
STOP_S_MAX = 10.0  # For an agent that was told to stop; tools end within this what they have under way.
HAND_OVER_S_MAX = 5.0  # For a mandate that is still being made.
BROKEN = Ending.failed("INTERNAL", "something went wrong that should not have")
NO_ACCESS = Ending.failed("ACCESS_ENDED", "the user's access has ended")


@dataclass(slots=True)
class _Tale:
    """What is told of the run, so far and from now on."""

    run: Run
    recorder: RunRecorder
    journal: Journal
    observed: Observed
    taint: Taint


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """What the run is to go on from."""

    messages: Sequence[Message]  # The question is the last.
    summary: str  # Of what was said before them; empty if nothing was, or nobody knows.


class Worker:
    """`patience_s` is how long a run can do without the store: as long as its lease.

    `trusted_tools` return nobody's words but the mesh's and the model's.
    """

    def __init__(  # noqa: PLR0913 - Called by the composition root alone.
        self,
        *,
        leases: Leases,
        events: Events,
        approvals: Approvals,
        agent: Agent,
        metrics: AgentMetrics,
        observing: Observing,
        summaries: Summaries,
        clock: Callable[[], float],
        trusted_tools: Collection[str],
        patience_s: float,
    ) -> None:
        self._observing, self._summaries = observing, summaries
        self._trusted_tools = trusted_tools
        self._leases, self._events, self._approvals, self._agent = leases, events, approvals, agent
        self._metrics, self._clock, self._patience_s = metrics, clock, patience_s

    async def work(self, job: Job) -> bool:
        """Return when the run's last event is committed, or the run is somebody else's.

        False means that nothing was done: an earlier run of the thread has not ended yet.
        """
        began_s = asyncio.get_running_loop().time()
        enter(job.asked_by)  # Whatever call, or other run, had this one begin just now.
        try:
            if not (job.called_off.is_set() or await self._begins(job)):
                return False
            tale = await self._tale(job)
            enter(tale.observed.trace.span)
            try:
                ending = await self._told_to_its_end(job, tale)
            finally:
                tale.observed.close(now_s=self._clock())
            if ending is None:
                await self._let_go(job, tale.run)
            else:
                job.has_ended = True
                if ending is LOST:
                    self._metrics.buried()
                duration_s = asyncio.get_running_loop().time() - began_s
                self._count(job, ending.status, answers=tale.recorder.model_answers, duration_s=duration_s)
        except* LeaseLost:
            log.warning("run_given_up", run_id=str(job.run_id))
        return True

    async def _told_to_its_end(self, job: Job, tale: _Tale) -> Ending | None:
        """How the run ended, which is committed; None: somebody else goes on with it."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(tale.journal.run())
            ending = await self._ending(job, tale, tasks)
            if ending is not None:
                tale.recorder.end(ending)
            tale.journal.close()
        return ending

    async def _tale(self, job: Job) -> _Tale:
        held = job.held
        config = held.config
        told = (
            await patiently(lambda: self._events.told(job.run_id), for_s=self._patience_s)
            if job.is_taken
            else ()
        )
        taint = Taint(run_tools=config.tools, trusted_tools=self._trusted_tools)
        for _, event in told:
            taint.add(event)
        run = Run.replayed(told, model=config.model, limits=config.limits, used=held.usage)
        journal = Journal(
            held.lease,
            self._events,
            job.feed,
            clock=self._clock,
            patience_s=self._patience_s,
            last_sequence=held.last_sequence,
        )
        recorder = RunRecorder(
            run,
            journal,
            record=Record(event for _, event in told),
            observed=(observed := self._observed(job, is_resumed=bool(told))),
            taint=taint,
            claim=partial(self._claimed, held.lease),
            approval_wait_s=config.limits.approval_wait_s,
            clock=self._clock,
        )
        return _Tale(run, recorder, journal, observed, taint)

    def _observed(self, job: Job, *, is_resumed: bool) -> Observed:
        about = Traced(
            run_id=str(job.run_id),
            thread_id=str(job.held.thread_id),
            config=job.held.config,
            assistant_id=str(job.held.assistant_id or ""),
            assistant_version=job.held.assistant_version,
            is_resumed=is_resumed,
            asked_by=job.asked_by,
            trace_parent=job.held.trace_parent,
        )
        return self._observing.of_run(about, now_s=self._clock())

    async def _ending(self, job: Job, tale: _Tale, tasks: asyncio.TaskGroup) -> Ending | None:
        """How the run ends; None: somebody else goes on with it."""
        held = job.held
        if (
            job.verdict is None
            and job.is_taken
            and (held.mandate is None or held.attempt_count > ATTEMPTS_MAX)
        ):
            return LOST
        if job.called_off.is_set():
            return job.verdict
        reading = await self._reading(job, tale.taint)
        tale.recorder.resolve(await self._decided(job, tale.run))
        if not tale.run.has_begun:
            tale.recorder.begin(held.question)
        if job.called_off.is_set():
            return job.verdict
        wall_s = tale.run.wall_left_s(now_s=self._clock())
        assignment = self._assignment(job, reading, wall_s=wall_s)
        job.is_safe = tale.recorder.is_safe
        job.task = tasks.create_task(self._attempt(job, assignment, tale.recorder))
        await _done(job, job.task, wall_s=wall_s)
        result = BROKEN if job.task.cancelled() else job.task.result()
        if result is not None and result.status is Status.SUCCEEDED:
            return result
        # A library may make an error of its own of the cancellation that carries out a verdict.
        return job.verdict or (None if job.is_handed_over else result)

    def _assignment(self, job: Job, reading: _Reading, *, wall_s: float) -> Assignment:
        held = job.held
        return Assignment(
            run_id=job.run_id,
            thread_id=held.thread_id,
            owner=held.owner,
            config=held.config,
            messages=reading.messages,
            summary=reading.summary,
            deadline_s=asyncio.get_running_loop().time() + wall_s,
            lease=held.lease,
            is_batch=held.is_batch,
            is_resumed=job.is_taken,
            is_handed_over=lambda: job.is_handed_over,
            token=job.authority.token,
        )

    async def _claimed(self, lease: Lease, call_id: str) -> bool:
        return await patiently(lambda: self._leases.claim(lease, call_id), for_s=self._patience_s)

    async def _begins(self, job: Job) -> bool:
        return await patiently(lambda: self._leases.begin(job.held.lease), for_s=self._patience_s)

    async def _reading(self, job: Job, taint: Taint) -> _Reading:
        said = await patiently(
            lambda: self._leases.history(job.run_id, count_max=HISTORY_COUNT_MAX), for_s=self._patience_s
        )
        history = said.messages
        taint.add_history(history, is_cut=not said.is_whole)
        find = partial(self._summaries.find, job.run_id)
        kept = await patiently(find, for_s=self._patience_s) if history else None
        if kept is None or kept.newer_count > len(history):
            newer, summary = from_a_question(history), ""
        else:  # It ends where a step does.
            newer, summary = history[len(history) - kept.newer_count :], kept.text
        return _Reading(
            messages=[*newer, Message(role=Role.USER, content=job.held.question)],
            summary=summary,
        )

    async def _decided(self, job: Job, run: Run) -> Mapping[UUID, Decided]:
        """What became of the run's questions. Those whose time is over lapse, unless a decision was quicker."""
        if not job.is_taken:
            return {}
        decided = dict(await patiently(lambda: self._approvals.settled(job.run_id), for_s=self._patience_s))
        now_s = self._clock()
        for question in run.questions:
            if question.approval_id not in decided and is_too_late(question, now_s=now_s):
                lapse = partial(self._approvals.settle, job.run_id, question, EXPIRED)
                decided[question.approval_id] = await patiently(lapse, for_s=self._patience_s)
        return decided

    async def _attempt(  # noqa: PLR0911 - One for each way to end.
        self, job: Job, assignment: Assignment, recorder: RunRecorder
    ) -> Ending | None:
        """What the agent made of it. Its failures are how the run ends, and nobody else's business."""
        try:
            answer = await self._agent.work(assignment, recorder)
        except Waits:
            return None
        except LimitReached as reached:
            return Ending.limited(reached.limit)
        except ModelFailed as failure:
            has_ended = failure.is_refused and await job.authority.has_ended()
            return NO_ACCESS if has_ended else Ending.failed("MODEL_FAILED", str(failure))
        except OutputInvalid as problem:
            return Ending.failed("OUTPUT_INVALID", f"the answer does not keep its schema: {problem}")
        except PiiBlocked as blocked:
            return Ending.failed(blocked.reason, f"{blocked.message}: {blocked.facts['kind']}")
        except AccessEnded:
            return NO_ACCESS
        except LeaseLost:
            raise
        except StoreFailure:
            return None  # No run fails for that: whoever is next goes on, as long as its time lasts.
        except Exception:
            log.exception("run_failed", run_id=str(assignment.run_id))
            return BROKEN
        return Ending(status=Status.SUCCEEDED, answer=answer)

    async def _let_go(self, job: Job, run: Run) -> None:
        """Have whoever comes next go on: at once, or when people have answered."""
        lease, waits = job.held.lease, {asked.approval_id: asked.expire_time_s for asked in run.questions}
        if job.is_handed_over or not waits:
            await job.authority.settled(for_s=HAND_OVER_S_MAX)
            await patiently(lambda: self._leases.give_back(lease), for_s=self._patience_s)
        else:
            await job.authority.settled()
            await patiently(lambda: self._leases.suspend(lease, waits), for_s=self._patience_s)

    def _count(self, job: Job, status: Status, *, answers: bool, duration_s: float) -> None:
        self._metrics.ended(status, model=job.held.config.model, answers=answers, duration_s=duration_s)


async def _done(job: Job, task: asyncio.Task[Ending | None], *, wall_s: float) -> None:
    """Return when the agent has ended. It is told to once its time is over, and again if that goes unheard."""
    now_s = asyncio.get_running_loop().time
    until_s, is_told = now_s() + wall_s, False
    while True:
        left_s = STOP_S_MAX if is_told else min(STOP_S_MAX, until_s - now_s())
        ended, _ = await asyncio.wait({task}, timeout=max(0.0, left_s))
        if ended:
            return
        if is_told:
            task.cancel()  # A library may have lost the first.
        elif now_s() >= until_s:
            job.end(Ending.limited("wall"))
        is_told = job.called_off.is_set()
