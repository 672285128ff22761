"""Works on one run: from its turn on the thread to its last event."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from services.agent.core.conversation import Message, Role, from_a_question
from services.agent.core.events import Status
from services.agent.core.ids import Owner
from services.agent.core.run import Ending, Run
from services.agent.errors import LeaseLost, LimitReached, ModelFailed
from services.agent.feed import Feed
from services.agent.journal import Journal
from services.agent.patience import patiently
from services.agent.ports import Agent, Assignment, Events, NewRun, Runs
from services.agent.recorder import RunRecorder
from services.agent.telemetry import AgentMetrics

log = structlog.get_logger(__name__)

HISTORY_COUNT_MAX = 200  # Messages of the thread that the model is given; the inference API takes 1,024.
BROKEN = Ending.failed("INTERNAL", "something went wrong that should not have")


@dataclass(slots=True, eq=False)
class Job:
    """A run of this replica. Its token lives here and nowhere else."""

    owner: Owner
    new: NewRun
    token: str = field(repr=False)
    position: int = 0  # As the store gives it.
    feed: Feed = field(default_factory=Feed)
    verdict: Ending | None = None
    task: asyncio.Task[Ending] | None = None
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, ending: Ending) -> None:
        """Whatever the agent is at, it stops; the first verdict holds."""
        self.verdict = self.verdict or ending
        if self.task is not None:
            self.task.cancel()


class Worker:
    """`patience_s` is how long a run can do without the store: as long as its lease."""

    def __init__(
        self,
        *,
        runs: Runs,
        events: Events,
        agent: Agent,
        metrics: AgentMetrics,
        clock: Callable[[], float],
        patience_s: float,
    ) -> None:
        self._runs, self._events, self._agent = runs, events, agent
        self._metrics, self._clock, self._patience_s = metrics, clock, patience_s

    async def work(self, job: Job) -> bool:
        """Return when the run's last event is committed, or the run is somebody else's.

        False means that nothing was done: an earlier run of the thread has not ended yet.
        """
        config, began_s = job.new.config, asyncio.get_running_loop().time()
        journal = Journal(
            job.new.run_id, self._events, job.feed, clock=self._clock, patience_s=self._patience_s
        )
        recorder = RunRecorder(Run(model=config.model, limits=config.limits), journal, clock=self._clock)
        status = Status.FAILED
        try:
            if job.verdict is None and not await self._begins(job):
                return False
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(journal.run())
                ending = job.verdict or await self._ending(job, recorder, tasks)
                status = ending.status
                recorder.end(ending)
                journal.close()
        except* LeaseLost:
            status = Status.FAILED
            log.warning("run_given_up", run_id=str(job.new.run_id))
        self._metrics.ended(
            status,
            model=config.model,
            answers=recorder.model_answers,
            duration_s=asyncio.get_running_loop().time() - began_s,
        )
        return True

    async def _ending(self, job: Job, recorder: RunRecorder, tasks: asyncio.TaskGroup) -> Ending:
        messages = await self._messages(job)
        recorder.begin(job.new.question)
        wall_s = job.new.config.limits.wall_s
        assignment = Assignment(
            run_id=job.new.run_id,
            thread_id=job.new.thread_id,
            owner=job.owner,
            config=job.new.config,
            messages=messages,
            deadline_s=asyncio.get_running_loop().time() + wall_s,
            token=job.token,
        )
        if job.verdict is not None:
            return job.verdict
        job.task = tasks.create_task(self._attempt(assignment, recorder))
        await asyncio.wait({job.task}, timeout=wall_s)
        if not job.task.done():
            job.end(Ending.limited("wall"))
            await asyncio.wait({job.task})
        result = BROKEN if job.task.cancelled() else job.task.result()
        # A library may make an error of its own of the cancellation that carries out a verdict.
        return result if result.status is Status.SUCCEEDED else job.verdict or result

    async def _begins(self, job: Job) -> bool:
        return await patiently(lambda: self._runs.begin(job.new.run_id), for_s=self._patience_s)

    async def _messages(self, job: Job) -> Sequence[Message]:
        history = await patiently(
            lambda: self._runs.history(job.new.run_id, count_max=HISTORY_COUNT_MAX), for_s=self._patience_s
        )
        return [*from_a_question(history), Message(role=Role.USER, content=job.new.question)]

    async def _attempt(self, assignment: Assignment, recorder: RunRecorder) -> Ending:
        """What the agent made of it. Its failures are how the run ends, and nobody else's business."""
        try:
            answer = await self._agent.work(assignment, recorder)
        except LimitReached as reached:
            return Ending.limited(reached.limit)
        except ModelFailed as failure:
            return Ending.failed("MODEL_FAILED", str(failure))
        except Exception:
            log.exception("run_failed", run_id=str(assignment.run_id))
            return BROKEN
        return Ending(status=Status.SUCCEEDED, answer=answer)
