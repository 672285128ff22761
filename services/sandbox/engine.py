"""Carries executions out: a place in the queue, a jail, a clock, and the books at the end."""

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import asdict
from typing import assert_never

import structlog

from services.common.errors import MeshError
from services.sandbox.catalogue import Catalogue
from services.sandbox.core.lifecycle import Ending, Event
from services.sandbox.core.limits import Asked, Limits, granted
from services.sandbox.errors import QueueFull, SandboxUnavailable
from services.sandbox.execution import Execution, Exited, Usage
from services.sandbox.ports import Jail, Jails, Program
from services.sandbox.telemetry import SandboxMetrics

log = structlog.get_logger(__name__)

Told = Callable[[str, Exited | MeshError], None]
NEVER_RAN = Ending(status=None, breach=None, cpu_s=0.0, peak_memory_bytes=0)


class Engine:
    """One task for each execution. At most `running_max` have a jail and `waiting_max` wait for one."""

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        cap: Limits,
        running_max: int,
        waiting_max: int,
        metrics: SandboxMetrics,
    ) -> None:
        self._catalogue = catalogue
        self._cap = cap
        self._running_max = running_max
        self._waiting_max = waiting_max
        self._metrics = metrics
        self._places = asyncio.Semaphore(running_max)
        self._accepted_count = 0
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Until cancelled; then nothing that was started goes on."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            await self._catalogue.run()

    def start(
        self, jails: Jails, program: Program, asked: Asked, told: Told = lambda _id, _result: None
    ) -> Execution:
        """Accept `program`. `told` is told how it ended. Raises SandboxUnavailable or QueueFull."""
        if self._tasks is None or jails.problem is not None:
            raise SandboxUnavailable(problem=jails.problem)
        if (waiting_count := self._accepted_count - self._running_max) >= self._waiting_max:
            raise QueueFull(waiting_max=self._waiting_max)
        ahead_count = waiting_count if waiting_count >= 0 else None
        execution = Execution(str(uuid.uuid4()), granted(asked, self._cap), ahead_count=ahead_count)
        self._accepted_count += 1
        task = self._tasks.create_task(self._carry_out(execution, jails, program))
        execution.waits(task.cancel)
        task.add_done_callback(lambda _: self._settle(execution, told))
        return execution

    async def _carry_out(self, execution: Execution, jails: Jails, program: Program) -> None:
        loop = asyncio.get_running_loop()
        accepted_s = loop.time()
        try:
            async with self._places:
                jail = await jails.take(execution.limits)
                began_s = loop.time()
                ending = await self._confine(execution, program, jail)
        except SandboxUnavailable as error:
            execution.fail(error)
            return
        usage = Usage(
            queue_s=began_s - accepted_s,
            wall_s=loop.time() - began_s,
            cpu_s=ending.cpu_s,
            peak_memory_bytes=ending.peak_memory_bytes,
        )
        execution.judge(ending, usage)

    async def _confine(self, execution: Execution, program: Program, jail: Jail) -> Ending:
        """Run in `jail`, for as long as it may. Nothing of it is left afterwards."""
        execution.runs(jail.kill)
        wall_s = execution.limits.wall_s
        clock = asyncio.get_running_loop().call_later(wall_s, execution.on, Event.WALL_PASSED)
        try:
            jail.begin(program, execution.write)
            return await jail.ended()
        finally:
            clock.cancel()
            jail.kill()

    def _settle(self, execution: Execution, told: Told) -> None:
        """Its task is over, whichever way."""
        self._accepted_count -= 1
        if execution.result is None:  # It never got a jail.
            execution.judge(NEVER_RAN, Usage())
        assert execution.result is not None
        self._metrics.ended(execution.result)
        told(execution.execution_id, execution.result)
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
