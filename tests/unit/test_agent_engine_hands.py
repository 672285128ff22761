"""What the engine makes of runs that come back to it before it has let go of them."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from uuid import UUID

import pytest

from services.agent.agents import Assignment, Recorder
from services.agent.core.events import Started, Status, StepStarted
from services.agent.core.ids import RunId, ThreadId
from services.agent.errors import LeaseLost
from services.agent.leases import Held, Lease
from services.agent.ports import Batch, StoredEvent
from services.common.errors import StoreBusy
from tests.unit.agent_engine_rig import (
    ANN,
    HOLDER,
    THREAD,
    Parrot,
    Store,
    engine,
    has_ended,
    orphan,
    start,
)

WORKERS_MAX, RUNS_MAX = 4, 8  # Of the rig.


class Hands(Store):
    """Each run has a thread of its own. Leases may be lost, and renewals may be slow."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: set[Lease] = set()
        self.slow: asyncio.Event | None = None
        self.asked: list[Collection[Lease]] = [()]

    def left(self, number: int) -> Held:
        return orphan(self, thread_id=ThreadId(UUID(int=number)))

    async def begin(self, lease: Lease) -> bool:
        return True

    async def append(self, lease: Lease, batch: Batch) -> Sequence[StoredEvent]:
        if lease in self.lost:
            raise LeaseLost
        return await super().append(lease, batch)

    async def give_back(self, lease: Lease) -> None:
        if lease in self.lost:
            raise LeaseLost
        await super().give_back(lease)

    async def keep(self, leases: Collection[Lease]) -> Mapping[RunId, bool]:
        self.asked.append(leases)
        if leases and self.slow is not None:
            await self.slow.wait()
        return await super().keep([lease for lease in leases if lease not in self.lost])


def again(held: Held) -> Held:
    """The same run, taken once more."""
    return replace(held, lease=replace(held.lease, fence=held.lease.fence + 1))


async def until(it_holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not it_holds():
            await asyncio.sleep(0.005)


async def test_news_of_a_lease_that_is_over_is_not_taken_for_that_of_the_next() -> None:
    """A renewal answers after its run has left and come again, to wait for a worker."""
    store, agent = Hands(), Parrot()
    first = store.left(1)
    second = again(first)
    store.slow = slow = asyncio.Event()
    agent.let.clear()
    async with engine(store, agent, runs_max=16) as made:
        store.orphans = [first]
        await until(lambda: first.lease in store.asked[-1])
        store.lost = {first.lease}
        agent.let.set()
        await until(lambda: not made._jobs)
        agent.let.clear()
        store.orphans = [store.left(number) for number in range(2, 2 + WORKERS_MAX)] + [second]
        await until(lambda: first.lease.run_id in made._turns._waiting)
        store.slow = None
        slow.set()
        await asyncio.sleep(0.05)
        agent.let.set()
        assert (await has_ended(store, first.lease.run_id)).status is Status.SUCCEEDED


class Slow(Parrot):
    """Takes its time to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.stopping, self.may_stop = asyncio.Event(), asyncio.Event()
        self.has_stopped = False

    async def work(self, assignment: Assignment, recorder: Recorder) -> str:
        try:
            return await super().work(assignment, recorder)
        except asyncio.CancelledError:
            self.stopping.set()
            await self.may_stop.wait()
            self.has_stopped = True
            raise


async def test_a_run_that_is_taken_again_and_again_is_worked_on_once() -> None:
    """Its lease ran out here, and the one before is long at stopping: what is new is kept meanwhile, and has a place."""
    store, agent = Hands(), Slow()
    first = store.left(1)
    second = again(first)
    third = again(second)
    agent.let.clear()
    async with engine(store, agent) as made:
        store.orphans = [first]
        await until(lambda: bool(store.events[first.lease.run_id]))
        store.lost = {first.lease}
        store.orphans = [second]
        await until(lambda: second.lease in store.asked[-1])
        store.lost = {first.lease, second.lease}
        store.orphans = [third]
        await until(lambda: third.lease in store.asked[-1])
        assert agent.stopping.is_set()
        agent.let.set()
        agent.may_stop.set()
        assert (await has_ended(store, first.lease.run_id)).status is Status.SUCCEEDED
        await until(lambda: not made._jobs)
        assert made._turns.room == RUNS_MAX


async def test_what_is_told_to_stop_is_told_once() -> None:
    """A tool ends its program before it goes; told again in the midst of that, it would leave it running."""
    store, agent = Hands(), Slow()
    held = store.left(1)
    agent.let.clear()
    async with engine(store, agent):
        store.orphans = [held]
        await until(lambda: bool(store.events[held.lease.run_id]))
        await store.request_cancel(held.lease.run_id, rollback=False)
        await until(agent.stopping.is_set)
        renewals = len(store.renewed)
        await until(lambda: len(store.renewed) > renewals + 3)
        assert not agent.has_stopped
        agent.may_stop.set()
        assert (await has_ended(store, held.lease.run_id)).status is Status.CANCELLED
        assert agent.has_stopped


class Deaf(Parrot):
    """Hears only the second time that it is to stop: as a library that loses a cancellation."""

    async def work(self, assignment: Assignment, recorder: Recorder) -> str:
        with suppress(asyncio.CancelledError):
            await super().work(assignment, recorder)
        await asyncio.Event().wait()
        raise AssertionError


async def test_what_does_not_stop_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.agent.worker.STOP_S_MAX", 0.05)
    store, agent = Hands(), Deaf()
    held = store.left(1)
    agent.let.clear()
    async with engine(store, agent):
        store.orphans = [held]
        await until(lambda: bool(store.events[held.lease.run_id]))
        await store.request_cancel(held.lease.run_id, rollback=False)
        assert (await has_ended(store, held.lease.run_id)).status is Status.CANCELLED


async def test_a_full_house_goes_on_with_what_its_runs_wait_for() -> None:
    """Runs that wait behind one that waited for a person have all places; were it left, nobody would ever go on."""
    store = Store()
    interrupted = orphan(store, told=[Started("tiny"), StepStarted(1)])
    async with engine(store, Parrot(), runs_max=2) as made:
        waiting = [await start(made) for _ in range(2)]
        assert made._turns.room == 0
        store.orphans = [interrupted]
        for run_id in (interrupted.lease.run_id, *(run.run_id for run in waiting)):
            assert (await has_ended(store, run_id)).status is Status.SUCCEEDED


async def test_a_full_house_takes_no_more_that_only_wait() -> None:
    store, agent = Hands(), Parrot()
    agent.let.clear()
    async with engine(store, agent, runs_max=2) as made:
        store.orphans = [store.left(number) for number in range(1, 6)]
        await until(lambda: made._turns.room == 0)
        renewals = len(store.renewed)
        await until(lambda: len(store.renewed) > renewals + 3)
        assert len(store.orphans) == 3


async def test_a_thread_is_cleared_of_runs_that_others_forget_meanwhile() -> None:
    """As when it is deleted twice at a time: the store lists its run, and then finds it no more."""
    store, agent = Hands(), Parrot()
    agent.let.clear()
    async with engine(store, agent) as made:
        run = await start(made)
        store.lost = {Lease(run_id=run.run_id, holder=HOLDER, fence=1)}
        async with asyncio.timeout(30):
            await made.clear(ANN, THREAD)
        assert not made._jobs


class Refused(Parrot):
    """Does not get a connection in time, as when all are in use."""

    async def work(self, assignment: Assignment, recorder: Recorder) -> str:
        raise StoreBusy


async def test_a_run_is_let_go_of_and_not_failed_where_the_store_refuses() -> None:
    store = Hands()
    held = store.left(1)
    async with engine(store, Refused()) as made:
        store.orphans = [held]
        await until(lambda: store.given_back == [held.lease] and not made._jobs)
    assert not store.ended(held.lease.run_id)
