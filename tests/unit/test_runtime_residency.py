"""Loading, slots, the queue's bound and keep_alive, without a model."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from deploy.local.runtime.errors import LoadFailedError, QueueFullError
from deploy.local.runtime.residency import Residency

CONTEXT = 4096


class Model:
    def __init__(self, context_length: int) -> None:
        self.context_length = context_length
        self.exited = False

    def kill(self) -> None:
        self.exited = True


class Loader:
    """Loads at once, or when told to; remembers what it loaded."""

    def __init__(self) -> None:
        self.models: list[Model] = []
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.failure: Exception | None = None

    async def __call__(self, context_length: int) -> Model:
        await self.may_load.wait()
        if self.failure:
            raise self.failure
        self.models.append(Model(context_length))
        return self.models[-1]


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
async def residency(loader: Loader) -> AsyncIterator[Residency[Model]]:
    residency = Residency(loader, parallel=2, waiting_max=2, keep_alive_s=300)
    yield residency
    residency.drop()


async def use(
    residency: Residency[Model], *, context_length: int = CONTEXT, keep_alive_s: float | None = None
) -> Model:
    async with residency.slot(context_length=context_length, keep_alive_s=keep_alive_s) as slot:
        return slot.resident


def gone(model: Model) -> bool:
    return model.exited


def is_loaded(residency: Residency[Model]) -> bool:
    return residency.loaded is not None


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_loads_once_for_many(residency: Residency[Model], loader: Loader) -> None:
    assert not is_loaded(residency)
    loader.may_load.clear()
    users = [asyncio.create_task(use(residency)) for _ in range(2)]
    await settle()
    loader.may_load.set()
    assert len({id(model) for model in await asyncio.gather(*users)}) == len(loader.models) == 1
    assert residency.loaded
    assert residency.loaded[1] == CONTEXT


async def test_runs_no_more_than_its_slots_and_lets_no_more_wait_than_allowed(
    residency: Residency[Model],
) -> None:
    async with AsyncExitStack() as running:
        for _ in range(2):
            await running.enter_async_context(residency.slot(context_length=CONTEXT, keep_alive_s=None))
        waiting = [asyncio.create_task(use(residency)) for _ in range(2)]
        await settle()
        assert not any(task.done() for task in waiting)
        with pytest.raises(QueueFullError):
            await use(residency)
        waiting[0].cancel()  # Leaves its place in the queue.
        await settle()
        third = asyncio.create_task(use(residency))
        await settle()
        assert not third.done()
    await asyncio.gather(waiting[1], third)


async def test_another_context_waits_until_nobody_uses_the_model_and_nobody_overtakes(
    residency: Residency[Model], loader: Loader
) -> None:
    async with residency.slot(context_length=CONTEXT, keep_alive_s=None) as slot:
        other = asyncio.create_task(use(residency, context_length=2048))
        await settle()
        later = asyncio.create_task(use(residency))
        await settle()
        assert not other.done()
        assert not later.done()
        assert not gone(slot.resident)
    await asyncio.gather(other, later)
    assert [model.context_length for model in loader.models] == [CONTEXT, 2048, CONTEXT]
    assert [model.exited for model in loader.models] == [True, True, False]


async def test_zero_unloads_when_the_last_one_leaves(residency: Residency[Model]) -> None:
    async with residency.slot(context_length=CONTEXT, keep_alive_s=None) as slot:
        await use(residency, keep_alive_s=0)
        assert is_loaded(residency)
    assert gone(slot.resident)
    assert not is_loaded(residency)


async def test_unloading_spares_who_is_using_it(residency: Residency[Model]) -> None:
    async with residency.slot(context_length=CONTEXT, keep_alive_s=None) as slot:
        residency.unload()
        assert not gone(slot.resident)
    assert gone(slot.resident)
    model = await use(residency)
    assert not model.exited  # Loaded anew, with the usual keep_alive.


async def test_goes_when_its_time_is_up_and_each_use_begins_it_anew(residency: Residency[Model]) -> None:
    model = await use(residency, keep_alive_s=0.01)
    async with residency.using(context_length=CONTEXT, keep_alive_s=None):
        await asyncio.sleep(0.03)
        assert not model.exited
    async with asyncio.timeout(10):
        while not model.exited:
            await asyncio.sleep(0.01)


async def test_for_ever_is_for_ever(residency: Residency[Model]) -> None:
    await use(residency, keep_alive_s=float("inf"))
    assert residency.loaded
    assert residency.loaded[0].year > 2200


async def test_a_model_that_died_is_loaded_again(residency: Residency[Model], loader: Loader) -> None:
    (await use(residency)).kill()
    assert not is_loaded(residency)
    assert not (await use(residency)).exited
    assert len(loader.models) == 2


async def test_a_failed_or_abandoned_load_is_tried_again(residency: Residency[Model], loader: Loader) -> None:
    loader.failure = LoadFailedError("exit status 1")
    with pytest.raises(LoadFailedError):
        await use(residency)
    loader.failure = None
    loader.may_load.clear()
    abandoned = asyncio.create_task(use(residency))
    await settle()
    abandoned.cancel()
    await settle()
    loader.may_load.set()
    assert not (await use(residency)).exited
    assert len(loader.models) == 1
