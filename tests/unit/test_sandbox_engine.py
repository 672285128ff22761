"""The engine of executions, with jails that do as they are told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count

import pytest
from prometheus_client import CollectorRegistry

from services.common.errors import MeshError
from services.sandbox.catalogue import Catalogue
from services.sandbox.core.admission import Bounds
from services.sandbox.core.lifecycle import Event, Outcome
from services.sandbox.core.limits import MIB, Asked, Caps, Limits
from services.sandbox.core.owners import Owner
from services.sandbox.engine import Engine
from services.sandbox.errors import QueueFull, SandboxUnavailable
from services.sandbox.execution import Execution, Exited, Queued, Started, Wrote
from services.sandbox.fresh import Fresh
from services.sandbox.places import Places
from services.sandbox.ports import Program, Stream
from services.sandbox.running import Job
from services.sandbox.telemetry import SandboxMetrics
from tests.fakes.fake_jails import FakeJails

PROGRAM = Program(b"", b"")
LIMITS = Limits(output_bytes=8)
CAPS = Caps(usual=LIMITS, most=LIMITS)
ADA = Owner("o", "ada")
TIMEOUT_S = 10.0
_ids = count()


@dataclass
class World:
    engine: Engine
    jails: FakeJails
    registry: CollectorRegistry

    def start(self, **asked: float) -> Execution:
        job = Job(
            execution_id=str(next(_ids)),
            owner=ADA,
            program=PROGRAM,
            asked=Asked(**asked),  # type: ignore[arg-type]
            caps=CAPS,
        )
        return Fresh(self.engine, self.jails).start(job)

    async def counts(self, outcome: str) -> bool:
        """Whether one is, or is about to be, counted with this outcome."""
        name = "ollamesh_sandbox_executions_total"
        labels = {"outcome": outcome, "profile": "python", "engine": "fake"}
        async with asyncio.timeout(TIMEOUT_S):
            while self.registry.get_sample_value(name, labels) != 1:
                await asyncio.sleep(0)
        return True


@asynccontextmanager
async def engine(*, running_max: int = 1, waiting_max: int = 1) -> AsyncIterator[World]:
    jails, registry = FakeJails(), CollectorRegistry()
    bounds = Bounds(
        memory_bytes=1024 * LIMITS.memory_bytes,
        session_memory_bytes=MIB,
        running_max=running_max,
        waiting_max=waiting_max,
        user_executions_max=64,
    )
    made = Engine(Catalogue([jails]), Places(bounds), SandboxMetrics(registry))
    task = asyncio.create_task(made.run())
    await asyncio.sleep(0)
    async with asyncio.timeout(TIMEOUT_S):
        yield World(made, jails, registry)
    task.cancel()
    await asyncio.wait([task])


async def told(execution: Execution) -> list[object]:
    return [event async for event in execution.events()]


def outcome_of(events: list[object]) -> Outcome:
    assert isinstance(events[-1], Exited)
    return events[-1].verdict.outcome


async def test_an_execution_is_told_from_start_to_exit() -> None:
    async with engine() as world:
        execution = world.start()
        jail = await world.jails.next_begun()
        jail.write(Stream.STDOUT, b"ab")
        jail.write(Stream.STDERR, b"x")
        jail.write(Stream.STDOUT, b"c")
        jail.end(0)
        events = await told(execution)
        assert isinstance(events[0], Started)
        wrote = [event for event in events if isinstance(event, Wrote)]
        assert wrote == [Wrote(Stream.STDOUT, 0, b"abc"), Wrote(Stream.STDERR, 0, b"x")]
        exited = events[-1]
        assert isinstance(exited, Exited)
        assert (exited.verdict.outcome, exited.usage.cpu_s, exited.usage.peak_memory_bytes) == (
            Outcome.OK,
            0.5,
            7,
        )
        assert await world.counts("OK")


async def test_output_reaches_a_reader_while_the_program_runs() -> None:
    async with engine() as world:
        events = world.start().events()
        jail = await world.jails.next_begun()
        assert isinstance(await anext(events), Started)
        for text in (b"1", b"2"):
            jail.write(Stream.STDOUT, text)
            wrote = await anext(events)
            assert isinstance(wrote, Wrote)
            assert wrote.data == text
        await events.aclose()


async def test_readers_do_not_take_from_each_other() -> None:
    async with engine() as world:
        execution = world.start()
        jail = await world.jails.next_begun()
        jail.write(Stream.STDOUT, b"abc")
        jail.end(1)
        assert await told(execution) == await told(execution)


async def test_who_waits_is_told_so_and_served_in_turn() -> None:
    async with engine(running_max=1, waiting_max=2) as world:
        executions = [world.start() for _ in range(3)]
        ahead = [await anext(execution.events()) for execution in executions[1:]]
        assert ahead == [Queued(0), Queued(1)]
        for execution in executions:
            (await world.jails.next_begun()).end(0)
            assert outcome_of(await told(execution)) is Outcome.OK


async def test_the_queue_is_bounded_and_its_places_come_back() -> None:
    async with engine(running_max=1, waiting_max=1) as world:
        first, second = world.start(), world.start()
        with pytest.raises(QueueFull) as refused:
            world.start()
        assert refused.value.facts == {"waiting_max": "1"}
        second.on(Event.LEFT)
        assert outcome_of(await told(second)) is Outcome.CANCELLED
        third = world.start()
        for execution in (first, third):
            (await world.jails.next_begun()).end(0)
            await told(execution)


async def test_who_leaves_while_waiting_never_gets_a_jail() -> None:
    async with engine(running_max=1, waiting_max=1) as world:
        first, second = world.start(), world.start()
        second.on(Event.LEFT)
        (await world.jails.next_begun()).end(0)
        await told(first)
        assert [type(event) for event in await told(second)] == [Exited]
        assert world.jails.given.empty()
        assert await world.counts("CANCELLED")


async def test_who_leaves_while_it_runs_has_it_killed_once() -> None:
    async with engine() as world:
        execution = world.start()
        jail = await world.jails.next_begun()
        execution.on(Event.LEFT)
        assert jail.kill_count == 1
        execution.on(Event.LEFT)
        assert jail.kill_count == 1
        assert outcome_of(await told(execution)) is Outcome.CANCELLED


async def test_the_wall_ends_it() -> None:
    async with engine() as world:
        execution = world.start(wall_s=0.01)
        await world.jails.next_begun()
        assert outcome_of(await told(execution)) is Outcome.TIMEOUT


async def test_a_flood_ends_it_and_a_splash_does_not() -> None:
    async with engine() as world:
        splashing = world.start()
        jail = await world.jails.next_begun()
        jail.write(Stream.STDERR, b"x" * LIMITS.output_bytes * 2)
        jail.end(0)
        events = await told(splashing)
        assert isinstance(events[-1], Exited)
        assert events[-1].truncated == {Stream.STDERR}
        assert outcome_of(events) is Outcome.OK

        flooding = world.start()
        jail = await world.jails.next_begun()
        jail.write(Stream.STDOUT, b"x" * LIMITS.output_bytes * 10)
        assert jail.kill_count == 1
        assert outcome_of(await told(flooding)) is Outcome.OUTPUT_LIMIT


async def test_a_jail_that_is_lost_is_no_outcome() -> None:
    async with engine() as world:
        execution = world.start()
        (await world.jails.next_begun()).end(None)
        with pytest.raises(SandboxUnavailable):
            await told(execution)
        assert await world.counts("SANDBOX_UNAVAILABLE")


async def test_without_an_engine_nothing_is_accepted() -> None:
    async with engine() as world:
        world.jails.problem = "there is no kernel"
        with pytest.raises(SandboxUnavailable) as refused:
            world.start()
        assert refused.value.facts == {"problem": "there is no kernel"}


async def test_an_engine_that_goes_down_fails_who_waits_for_it() -> None:
    async with engine() as world:
        execution = world.start()
        world.jails.problem = "it went down"
        with pytest.raises(MeshError):
            await told(execution)


async def test_stopping_the_engine_leaves_no_jail() -> None:
    async with engine() as world:
        world.start()
        jail = await world.jails.next_begun()
    assert jail.kill_count >= 1
