"""Jails that are started when they are first wanted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.sandbox import on_demand
from services.sandbox.core.limits import Limits
from services.sandbox.errors import SandboxUnavailable
from services.sandbox.on_demand import OnDemand
from services.sandbox.ports import STARTING, Strength
from services.sandbox.profiles import Profile
from tests.fakes.fake_jails import FakeJails

DESCRIBED = Profile(name="data", runtime="python 3.11")


class SlowJails(FakeJails):
    """They start when they are told to."""

    def __init__(self) -> None:
        super().__init__(profile=Profile(name="data"), problem=STARTING, strength=Strength(("memory",), ()))
        self.running = asyncio.Event()

    async def run(self) -> None:
        self.running.set()
        await asyncio.Event().wait()


@asynccontextmanager
async def lazy() -> AsyncIterator[tuple[OnDemand, SlowJails, FakeJails]]:
    slow, proof = SlowJails(), FakeJails()
    made = OnDemand(slow, DESCRIBED, proof=proof)
    task = asyncio.create_task(made.run())
    yield made, slow, proof
    task.cancel()


async def test_nothing_is_started_before_it_is_wanted() -> None:
    async with lazy() as (made, slow, proof):
        await asyncio.sleep(0)
        assert made.problem is None
        assert made.profile == DESCRIBED
        assert made.strength == proof.strength
        assert not slow.running.is_set()


async def test_it_is_not_offered_before_its_engine_has_proved_itself() -> None:
    async with lazy() as (made, _, proof):
        proof.problem = STARTING
        assert made.problem == STARTING


async def test_who_comes_first_waits_and_so_do_others() -> None:
    async with lazy() as (made, slow, _):
        waiting = [asyncio.create_task(made.take(Limits())), asyncio.create_task(made.open(Limits()))]
        await slow.running.wait()
        assert made.problem is None
        assert not any(task.done() for task in waiting)
        slow.problem = None
        await asyncio.gather(*waiting)
        assert made.strength == slow.strength
        assert made.profile == slow.profile


async def test_why_it_cannot_start_is_told() -> None:
    async with lazy() as (made, slow, _):
        waiting = asyncio.create_task(made.take(Limits()))
        await slow.running.wait()
        slow.problem = "numpy cannot be imported"
        with pytest.raises(SandboxUnavailable):
            await waiting
        assert made.problem == "numpy cannot be imported"


async def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_demand, "START_WITHIN_S", 0.05)
    async with lazy() as (made, _, _):
        with pytest.raises(SandboxUnavailable):
            await made.take(Limits())
