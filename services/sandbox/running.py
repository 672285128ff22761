"""What has programs run: fresh jails and sessions alike."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from services.common.errors import MeshError
from services.sandbox.core.kept_results import RESULT_BOUNDS, ResultBounds
from services.sandbox.core.lifecycle import Event, Outcome
from services.sandbox.core.limits import Asked, Caps
from services.sandbox.core.owners import Owner
from services.sandbox.execution import Execution, Exited
from services.sandbox.ports import Jail, Program

Told = Callable[[str, Exited | MeshError], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A program that somebody wants run."""

    execution_id: str
    owner: Owner
    program: Program
    asked: Asked
    caps: Caps  # The owner's.
    told: Told = lambda _id, _result: None  # How it ended.
    result_bounds: ResultBounds = RESULT_BOUNDS


class Runner(Protocol):
    """Where programs are run: each in a fresh jail, or one after another in that of a session."""

    def start(self, job: Job) -> Execution:
        """Accept `job`. Raises SandboxUnavailable, QueueFull, TooManyExecutions, or SessionBusy.

        With the help of Engine.start, which does all but what is done in the jail.
        """
        ...


@asynccontextmanager
async def attended(
    execution: Execution, jail: Jail, stop: Callable[[Outcome], object] | None = None
) -> AsyncIterator[None]:
    """From here on `execution` runs in `jail`: its clock ticks, its input is passed on, and it can be ended.

    Call `jail.begin` at once, within. `stop` is told once why it is to be ended; else the jail is killed.
    """
    execution.runs(jail, stop or (lambda _: jail.kill()))
    clock = asyncio.get_running_loop().call_later(execution.limits.wall_s, execution.on, Event.WALL_PASSED)
    given = execution.input
    feeding = asyncio.create_task(given.pass_on(jail.feed)) if given.is_open else None
    try:
        yield
    finally:
        execution.ended_s = asyncio.get_running_loop().time()
        clock.cancel()
        if feeding is not None:
            feeding.cancel()
            await asyncio.wait([feeding])
