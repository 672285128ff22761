"""Programs in a session: one after another, in the interpreter that it keeps.

What has run for too long, or is not wanted any more, is interrupted first, so that its session keeps its variables;
what does not heed that is killed, and the session begins anew. Who asks for a kill gets one at once.
"""

import asyncio
from contextlib import suppress
from dataclasses import replace
from functools import partial

from services.common.errors import MeshError
from services.sandbox.core.admission import Claim
from services.sandbox.core.lifecycle import Ending, Event, Outcome
from services.sandbox.core.limits import Asked, Caps, Limits, granted
from services.sandbox.engine import Engine
from services.sandbox.errors import SandboxUnavailable
from services.sandbox.execution import Execution, Exited, Where
from services.sandbox.ports import Program
from services.sandbox.running import Job, attended
from services.sandbox.session import Session, Turn

KILLED_AFTER_S = 0.5  # That an interrupt was sent.


class InSession:
    """The port `Runner`."""

    def __init__(self, engine: Engine, session: Session) -> None:
        self._engine, self._session = engine, session

    def start(self, job: Job) -> Execution:
        """The session is BUSY from here on: also while its program waits for a place."""
        session = self._session
        execution = Execution(
            job.execution_id,
            _limits(job.asked, job.caps, session.limits),
            Where(session.engine, session.profile, session.session_id),
            is_input_open=job.program.stdin_open,
            result_bounds=job.result_bounds,
        )
        turn = session.begin(partial(execution.on, Event.LEFT))

        def told(execution_id: str, result: Exited | MeshError) -> None:
            turn.leave()  # If it never ran.
            job.told(execution_id, result)

        try:
            self._engine.start(replace(job, told=told), execution, Claim(), partial(_run, turn))
        except MeshError:
            turn.leave()
            raise
        return execution


async def _run(turn: Turn, execution: Execution, program: Program) -> Ending:
    if not turn.jail.alive:
        raise SandboxUnavailable(problem="the session's interpreter was lost")
    execution.begins_anew = turn.tell_loss()
    stopping = _Stopping(turn)
    try:
        async with attended(execution, turn.jail, stopping.stop):
            turn.jail.begin(program, execution.write)
            ending = await turn.jail.finished()
    except BaseException:
        turn.abandon()
        raise
    finally:
        stopping.is_over()
    if ending.status is None and ending.breach is None and not stopping.has_begun:
        turn.abandon()  # The jail was lost: there will be no outcome. The next execution tells that it begins anew.
        return ending
    execution.aftermath = await turn.over()
    return ending


class _Stopping:
    """How what runs is ended before it ends by itself."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._clock: asyncio.TimerHandle | None = None
        self.has_begun = False

    def stop(self, why: Outcome) -> None:
        self.has_begun = True
        if why is Outcome.OUTPUT_LIMIT:
            self._turn.kill()  # What floods a pipe seldom looks up.
            return
        self._clock = asyncio.get_running_loop().call_later(KILLED_AFTER_S, self._turn.kill)
        with suppress(SandboxUnavailable):  # Then the clock has to do.
            self._turn.interrupt()

    def is_over(self) -> None:
        if self._clock is not None:
            self._clock.cancel()


def _limits(asked: Asked, caps: Caps, session: Limits) -> Limits:
    """What is built into the session's jail is the session's; the rest is each execution's own."""
    own = granted(asked, Caps(usual=session, most=caps.most))
    return replace(
        own,
        memory_bytes=session.memory_bytes,
        cpu_s=session.cpu_s,
        process_count=session.process_count,
        files_bytes=session.files_bytes,
    )
