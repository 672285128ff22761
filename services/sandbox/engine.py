"""Carries executions out: a place, a task that runs it there, and the books at the end."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import assert_never

import structlog

from services.common.errors import MeshError
from services.sandbox.catalogue import Catalogue
from services.sandbox.core.admission import Claim
from services.sandbox.core.lifecycle import Ending, Event
from services.sandbox.errors import SandboxUnavailable
from services.sandbox.execution import Execution, Exited, Usage
from services.sandbox.places import Place, Places
from services.sandbox.ports import Program
from services.sandbox.running import Job
from services.sandbox.telemetry import SandboxMetrics
from services.sandbox.tracing import execution_ended

log = structlog.get_logger(__name__)

# Runs a program until nothing of it is left, within `attended`. Raises SandboxUnavailable.
Run = Callable[[Execution, Program], Awaitable[Ending]]
NEVER_RAN = Ending(status=None, breach=None, cpu_s=0.0, peak_memory_bytes=0)


class Engine:
    """One task for each execution."""

    def __init__(self, catalogue: Catalogue, places: Places, metrics: SandboxMetrics) -> None:
        self.places = places
        self._catalogue = catalogue
        self._metrics = metrics
        self._under_way: dict[Execution, asyncio.Task[None]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._drains = False

    async def run(self) -> None:
        """Until cancelled; then nothing that was started goes on."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            await self._catalogue.run()

    def start(self, job: Job, execution: Execution, claim: Claim, run: Run) -> None:
        """Have it `run` once there is a place. Raises SandboxUnavailable, QueueFull or TooManyExecutions."""
        if self._tasks is None or self._drains:
            raise SandboxUnavailable(problem="the service is starting or stopping")
        place = self.places.ask(job.owner, claim)
        task = self._tasks.create_task(self._carry_out(job, execution, place, run))
        self._under_way[execution] = task
        execution.waits(place, task.cancel)
        task.add_done_callback(lambda _: self._settle(job, execution, place))

    async def drain(self, within_s: float) -> None:
        """Accept no more, let what is under way end by itself `within_s`, and end and tell the rest."""
        self._drains = True
        if not self._under_way:
            return
        await asyncio.wait(self._under_way.values(), timeout=within_s)
        for execution in list(self._under_way):
            execution.on(Event.LEFT)
        if self._under_way:
            await asyncio.wait(self._under_way.values())

    async def _carry_out(self, job: Job, execution: Execution, place: Place, run: Run) -> None:
        try:
            async with place:  # Given back before anybody is told the end, and may ask for the next.
                ending = await run(execution, job.program)
        except SandboxUnavailable as error:
            execution.fail(error)
            return
        usage = Usage(
            queue_s=execution.began_s - execution.created_s,
            wall_s=execution.ended_s - execution.began_s,
            cpu_s=ending.cpu_s,
            peak_memory_bytes=ending.peak_memory_bytes,
        )
        execution.judge(ending, usage)

    def _settle(self, job: Job, execution: Execution, place: Place) -> None:
        """Its task is over, whichever way."""
        place.give_back()
        del self._under_way[execution]
        if execution.result is None:  # It never got a jail.
            waited_s = asyncio.get_running_loop().time() - execution.created_s
            execution.judge(NEVER_RAN, Usage(queue_s=waited_s))
        assert execution.result is not None
        self._metrics.ended(execution.result, execution.where)
        execution_ended(execution, placed_s=place.held_s)
        job.told(execution.execution_id, execution.result)
        log.info("execution_ended", execution_id=execution.execution_id, **_summary(execution.result))


def _summary(result: Exited | MeshError) -> dict[str, object]:
    """What an operator may know: how it went, never what it was."""
    match result:
        case Exited(verdict, usage):
            return {"outcome": verdict.outcome.name, "exit_code": verdict.exit_code, **asdict(usage)}
        case MeshError(reason=reason, facts=facts):
            return {"reason": reason, **facts}
        case _:
            assert_never(result)
