"""Executions in sessions, with a jail that does as it is told: what their callers are told, and what is left."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from prometheus_client import CollectorRegistry

from services.common.errors import InvalidRequest, MeshError
from services.sandbox.catalogue import Catalogue
from services.sandbox.core.admission import Bounds
from services.sandbox.core.lifecycle import Event, Outcome
from services.sandbox.core.limits import MIB, Asked, Caps, LimitKind, Limits
from services.sandbox.core.sessions import Aftermath, Cause, Loss, State
from services.sandbox.engine import Engine
from services.sandbox.errors import (
    QueueFull,
    SandboxUnavailable,
    SessionBusy,
    SessionNotFound,
    TooManyExecutions,
)
from services.sandbox.execution import Execution, Exited, Started, Wrote
from services.sandbox.in_session import InSession
from services.sandbox.places import Places
from services.sandbox.ports import Program
from services.sandbox.runners import AllRunners
from services.sandbox.running import Job
from services.sandbox.session import Session
from services.sandbox.telemetry import SandboxMetrics
from tests.fakes.fake_session_jail import FakeSessionJail
from tests.unit.sandbox_sessions import ADA, BOB, TIMEOUT_S, WISH, World, until, world

HANG = "time.sleep(3600)"
CAPS = Caps(usual=Limits(wall_s=60), most=Limits(wall_s=60, output_bytes=1000, memory_bytes=1 << 40))
BOUNDS = Bounds(
    memory_bytes=1 << 32, session_memory_bytes=1 << 32, running_max=2, waiting_max=1, user_executions_max=3
)


@dataclass
class Here:
    around: World
    engine: Engine
    session: Session
    told: list[object]

    def start(self, code: str, asked: Asked | None = None, session: Session | None = None) -> Execution:
        job = Job(
            execution_id="e",
            owner=ADA,
            program=Program(code.encode(), b""),
            asked=asked or Asked(),
            caps=CAPS,
            told=lambda _id, result: self.told.append(result),
        )
        return InSession(self.engine, session or self.session).start(job)

    async def run(self, code: str, asked: Asked | None = None) -> Exited:
        return await ended(self.start(code, asked))


async def ended(execution: Execution) -> Exited:
    return await execution.ended()


@asynccontextmanager
async def here() -> AsyncIterator[Here]:
    async with world() as around:
        engine = Engine(Catalogue([around.jails]), Places(BOUNDS), SandboxMetrics(CollectorRegistry()))
        task = asyncio.create_task(engine.run())
        await asyncio.sleep(0)
        yield Here(around, engine, await around.create(), [])
        task.cancel()
        await asyncio.wait([task])


async def events_of(execution: Execution) -> list[object]:
    return [event async for event in execution.events()]


async def test_programs_share_their_variables_and_files() -> None:
    async with here() as it:
        assert (await it.run("x = 41")).verdict.outcome is Outcome.OK
        execution = it.start("x += 1\nprint(x)")
        wrote = [event for event in await events_of(execution) if isinstance(event, Wrote)]
        assert wrote[0].data == b"42\n"
        assert (execution.where.engine, execution.where.session_id) == ("fake", it.session.session_id)
        exited = await it.run("1/0")
        assert (exited.verdict.outcome, exited.verdict.exit_code) == (Outcome.ERROR, 1)
        assert exited.session == Aftermath()
        assert it.session.life.state is State.IDLE


async def test_a_session_runs_one_at_a_time() -> None:
    async with here() as it:
        running = it.start(HANG)
        with pytest.raises(SessionBusy):
            it.start("x = 1")
        await it.around.jail.begun.wait()
        running.interrupt()
        await ended(running)
        assert (await it.run("x = 1")).verdict.outcome is Outcome.OK


async def test_who_waits_for_a_place_has_the_session_busy() -> None:
    async with here() as it:
        others = [await it.around.create() for _ in range(2)]
        running = [it.start(HANG, session=other) for other in others]
        waiting = it.start("x = 1")
        with pytest.raises(SessionBusy):
            it.start("x = 2")
        waiting.on(Event.LEFT)
        assert (await ended(waiting)).verdict.outcome is Outcome.CANCELLED
        await asyncio.sleep(0)
        assert it.session.life.state is State.IDLE
        assert it.around.jail.alive
        for execution in running:
            execution.kill()
            await ended(execution)


async def test_what_is_refused_leaves_the_session_idle() -> None:
    async with here() as it:
        others = [await it.around.create() for _ in range(3)]
        running = [it.start(HANG, session=other) for other in others]
        with pytest.raises((QueueFull, TooManyExecutions)):
            it.start("x = 1")
        assert it.session.life.state is State.IDLE
        for execution in running:
            execution.kill()
            await ended(execution)


async def test_limits_of_the_jail_are_the_session_s() -> None:
    async with here() as it:
        asked = Asked(memory_bytes=48 * MIB, files_bytes=MIB, process_count=1, wall_s=7, output_bytes=10)
        limits = it.start("x = 1", asked).limits
        own = it.session.limits
        assert (limits.memory_bytes, limits.files_bytes) == (own.memory_bytes, own.files_bytes)
        assert limits.process_count == own.process_count
        assert (limits.wall_s, limits.output_bytes) == (7, 10)


async def test_executions_may_ask_for_more_time_than_is_usual() -> None:
    async with here() as it:
        assert it.start("x = 1").limits.wall_s == WISH.limits.wall_s
        await until(it.session, State.IDLE)
        assert it.start("x = 1", Asked(wall_s=1000)).limits.wall_s == 60


async def test_too_long_is_interrupted_and_keeps_its_variables() -> None:
    async with here() as it:
        await it.run("x = 1")
        exited = await it.run(HANG, Asked(wall_s=0.05))
        assert exited.verdict.outcome is Outcome.TIMEOUT
        assert exited.session == Aftermath()
        assert (it.around.jail.interrupt_count, it.around.jail.kill_count) == (1, 0)
        assert (await it.run("print(x)")).verdict.outcome is Outcome.OK


async def test_what_does_not_heed_an_interrupt_is_killed_and_said_to_be() -> None:
    async with here() as it:
        it.around.jail.is_deaf = True
        exited = await it.run(HANG, Asked(wall_s=0.05))
        assert exited.verdict.outcome is Outcome.TIMEOUT
        assert exited.session == Aftermath(restarted=True, files_lost=True)
        assert exited.usage.wall_s >= 0.5
        assert it.session.life.restart_count == 1
        assert it.around.told[-1] is Loss.KILLED
        assert (await it.run("print(x)")).verdict.outcome is Outcome.ERROR


async def test_what_cannot_be_interrupted_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its init takes in nothing more, as when somebody has flooded it with interrupts."""

    def interrupt(_jail: FakeSessionJail) -> None:
        raise SandboxUnavailable(problem="its init hears nothing")

    monkeypatch.setattr(FakeSessionJail, "interrupt", interrupt)
    async with here() as it:
        exited = await it.run(HANG, Asked(wall_s=0.05))
        assert exited.verdict.outcome is Outcome.TIMEOUT
        assert exited.session.restarted
        assert it.around.told[-1] is Loss.KILLED


async def test_who_leaves_interrupts_and_who_kills_kills() -> None:
    async with here() as it:
        execution = it.start(HANG)
        await it.around.jail.begun.wait()
        execution.on(Event.LEFT)
        exited = await ended(execution)
        assert (exited.verdict.outcome, exited.session) == (Outcome.CANCELLED, Aftermath())
        it.around.jail.begun.clear()
        execution = it.start(HANG)
        await it.around.jail.begun.wait()
        execution.kill()
        exited = await ended(execution)
        assert exited.verdict.outcome is Outcome.CANCELLED
        assert exited.session.restarted
        assert it.around.told[-1] is Loss.KILLED


async def test_a_crash_after_an_interrupt_that_was_heeded_is_a_crash() -> None:
    async with here() as it:
        assert (await it.run(HANG, Asked(wall_s=0.05))).session == Aftermath()
        assert (await it.run("os.abort()")).session.restarted
        assert it.around.told[-1] is Loss.CRASHED


async def test_an_interrupt_keeps_the_state() -> None:
    async with here() as it:
        execution = it.start(HANG)
        await it.around.jail.begun.wait()
        execution.interrupt()
        exited = await ended(execution)
        assert (exited.verdict.outcome, exited.session) == (Outcome.ERROR, Aftermath())


async def test_a_flood_is_killed_at_once() -> None:
    async with here() as it:
        exited = await it.run("print('x' * 20_000)\n" + HANG)
        assert exited.verdict.outcome is Outcome.OUTPUT_LIMIT
        assert exited.session.restarted
        assert it.around.jails.opened[0].interrupt_count == 0


@pytest.mark.parametrize(
    ("code", "outcome"), [("os._exit(3)", Outcome.ERROR), ("os.abort()", Outcome.SIGNALLED)]
)
async def test_a_crash_is_told_with_what_crashed(code: str, outcome: Outcome) -> None:
    async with here() as it:
        exited = await it.run(code)
        assert exited.verdict.outcome is outcome
        assert exited.session == Aftermath(restarted=True, files_lost=True)
        started = (await events_of(it.start("x = 1")))[0]
        assert isinstance(started, Started)
        assert not started.begins_anew


async def test_too_much_memory_is_told_apart() -> None:
    async with here() as it:
        execution = it.start(HANG)
        await it.around.jail.begun.wait()
        it.around.jail.end(None, LimitKind.MEMORY)
        exited = await ended(execution)
        assert exited.verdict.outcome is Outcome.OOM
        assert exited.session.restarted


async def test_a_lost_jail_is_no_outcome_and_told_to_the_next() -> None:
    async with here() as it:
        execution = it.start(HANG)
        await it.around.jail.begun.wait()
        it.around.jail.end(None)
        with pytest.raises(SandboxUnavailable):
            await ended(execution)
        await until(it.session, State.IDLE)
        assert it.around.told[-1] is Loss.JAIL
        started = (await events_of(it.start("x = 1")))[0]
        assert isinstance(started, Started)
        assert started.begins_anew


async def test_a_jail_that_is_lost_before_it_begins_fails_the_call() -> None:
    async with here() as it:
        execution = it.start("x = 1")
        it.around.jail.end(None)
        with pytest.raises(SandboxUnavailable):
            await ended(execution)
        await until(it.session, State.IDLE)
        assert (await it.run("x = 1")).verdict.outcome is Outcome.OK


async def test_deleting_the_session_cancels_what_runs_and_says_so() -> None:
    async with here() as it:
        execution = it.start(HANG)
        await it.around.jail.begun.wait()
        await it.around.sessions.delete(ADA, it.session.session_id)
        exited = await ended(execution)
        assert exited.verdict.outcome is Outcome.CANCELLED
        assert exited.session == Aftermath(files_lost=True, ended=True)
        with pytest.raises(SessionNotFound):
            it.start("x = 1")


async def test_a_session_that_cannot_be_restarted_ends_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.sandbox.session.OPEN_WITHIN_S", 0.1)
    async with here() as it:
        execution = it.start("os.abort()")
        it.around.jails.problem = "no more"
        exited = await ended(execution)
        assert exited.verdict.outcome is Outcome.SIGNALLED
        assert exited.session == Aftermath(files_lost=True, ended=True)
        assert it.session.cause is Cause.LOST


async def test_the_end_of_the_service_ends_what_runs() -> None:
    async with here() as it:
        execution = it.start(HANG)
        await it.around.jail.begun.wait()
    assert not it.around.jails.opened[0].alive
    assert execution.result is not None
    assert it.told == [execution.result]


async def test_every_execution_is_told_of_once() -> None:
    async with here() as it:
        for code in ("x = 1", "1/0", "os.abort()"):
            await it.run(code)
        async with asyncio.timeout(TIMEOUT_S):
            while len(it.told) < 3:
                await asyncio.sleep(0.001)
        assert all(isinstance(each, Exited) for each in it.told)


async def test_runners_find_sessions_by_owner_and_check_what_is_asked() -> None:
    async with here() as it:
        runners = AllRunners(it.engine, Catalogue([it.around.jails]), it.around.sessions)
        session_id = it.session.session_id
        for engine, profile in (("", ""), ("fake", "python")):
            found = runners.find(ADA, session_id=session_id, engine=engine, profile=profile)
            assert isinstance(found, InSession)
        with pytest.raises(InvalidRequest) as refused:
            runners.find(ADA, session_id=session_id, engine="other", profile="bash")
        assert [each.field for each in refused.value.violations] == ["spec.engine", "spec.profile"]
        with pytest.raises(SessionNotFound):
            runners.find(BOB, session_id=session_id, engine="", profile="")
        with pytest.raises(MeshError):
            runners.find(BOB, session_id="", engine="", profile="cobol")
