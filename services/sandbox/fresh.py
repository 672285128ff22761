"""Programs in fresh jails: each is made for one, and gone with it."""

from services.sandbox.core.admission import Claim
from services.sandbox.core.lifecycle import Ending
from services.sandbox.core.limits import granted
from services.sandbox.engine import Engine
from services.sandbox.errors import SandboxUnavailable
from services.sandbox.execution import Execution, Where
from services.sandbox.ports import Jails, Program
from services.sandbox.running import Job, attended


class Fresh:
    """The port `Runner`."""

    def __init__(self, engine: Engine, jails: Jails) -> None:
        self._engine, self._jails = engine, jails

    def start(self, job: Job) -> Execution:
        if self._jails.problem is not None:
            raise SandboxUnavailable(problem=self._jails.problem)
        limits = granted(job.asked, job.caps)
        execution = Execution(
            job.execution_id,
            limits,
            Where(self._jails.engine, self._jails.profile.name),
            is_input_open=job.program.stdin_open,
            result_bounds=job.result_bounds,
        )
        self._engine.start(job, execution, Claim(memory_bytes=limits.memory_bytes), self._run)
        return execution

    async def _run(self, execution: Execution, program: Program) -> Ending:
        jail = await self._jails.take(execution.limits)
        try:
            async with attended(execution, jail):
                jail.begin(program, execution.write)
                return await jail.ended()
        finally:
            jail.kill()
