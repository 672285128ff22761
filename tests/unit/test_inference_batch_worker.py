"""What a worker does with the items that it takes."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from ollamesh.inference.v1 import batch_pb2 as pb
from prometheus_client import CollectorRegistry

from services.inference.batches import worker as module
from services.inference.batches.ports import Done, Held
from services.inference.batches.telemetry import BatchMetrics
from services.inference.batches.worker import BatchWorker
from services.inference.core.batches import ATTEMPTS_MAX
from services.inference.errors import InstanceLost, ModelNotFound, QueueFull
from tests.fakes.batch_items import FakeItems

WITHIN_S = 20.0
Answer = Callable[[Held], Awaitable[Done]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(module, "STORE_RETRY_S", 0.01)


@asynccontextmanager
async def working(
    items: FakeItems, answer: Answer, *, places: int = 3
) -> AsyncIterator[tuple[BatchWorker, CollectorRegistry]]:
    registry = CollectorRegistry()
    worker = BatchWorker(
        items, answer, BatchMetrics(registry), places=places, lease_s=items.lease_s, sweep_every_s=0.01
    )
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(stop))
    try:
        yield worker, registry
    finally:
        stop.set()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not holds():
            await asyncio.sleep(0.005)


async def at_once(held: Held) -> Done:
    return Done(held=held, succeeded=True, payload=held.request)


def reason(done: Done) -> str:
    info = ErrorInfo()
    for detail in pb.StreamBatchResultsResponse.FromString(done.payload).error.details:
        detail.Unpack(info)
    return str(info.reason)


async def test_it_does_all_of_several_batches_with_so_many_at_once_and_no_more() -> None:
    items, running, peak = FakeItems(), 0, 0
    for organization in ("a", "b", "c"):
        items.add(uuid4(), 20, organization_id=organization)

    async def answer(held: Held) -> Done:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0)
        running -= 1
        return await at_once(held)

    async with working(items, answer):
        await until(lambda: len(items.results) == 60)
    assert peak == 3
    assert items.items == {}


async def test_organisations_are_served_in_turn() -> None:
    items = FakeItems()
    items.add(uuid4(), 200, organization_id="many")
    items.add(uuid4(), 5, organization_id="few")
    async with working(items, at_once):
        await until(lambda: len(items.results) == 205)
    last = max(
        place
        for place, done in enumerate(items.results)
        if done.held.creator.principal.organization_id == "few"
    )
    assert last < 30


async def test_refusals_for_load_cost_an_item_nothing() -> None:
    items = FakeItems()
    items.add(uuid4(), 1)
    refusals = 0

    async def answer(held: Held) -> Done:
        nonlocal refusals
        assert held.attempt_count == 1
        if held.put_back_count < 2 * ATTEMPTS_MAX:
            refusals += 1
            raise QueueFull
        return await at_once(held)

    async with working(items, answer):
        async with asyncio.timeout(WITHIN_S):
            while not items.results:
                items.now_s += 100
                await asyncio.sleep(0.02)
    assert refusals == 2 * ATTEMPTS_MAX


async def test_the_items_own_failure_is_its_result() -> None:
    items = FakeItems()
    items.add(uuid4(), 1)

    async def answer(held: Held) -> Done:
        raise ModelNotFound(model="x")

    async with working(items, answer):
        await until(lambda: items.results)
    assert reason(items.results[0]) == "MODEL_NOT_FOUND"


@pytest.mark.parametrize("error", [InstanceLost(), ZeroDivisionError("secret")])
async def test_what_fails_each_time_is_given_up_and_the_others_proceed(error: Exception) -> None:
    items = FakeItems()
    items.add(uuid4(), 5)
    attempts: Counter[int] = Counter()

    async def answer(held: Held) -> Done:
        attempts[held.place.item_index] += 1
        if held.place.item_index == 2:
            raise error
        return await at_once(held)

    async with working(items, answer):
        async with asyncio.timeout(WITHIN_S):
            while len(items.results) < 5:
                items.now_s += 100
                await asyncio.sleep(0.01)
    assert attempts == {0: 1, 1: 1, 2: ATTEMPTS_MAX, 3: 1, 4: 1}
    found = {done.held.place.item_index: reason(done) for done in items.results}
    assert found == {0: "", 1: "", 2: "ITEM_POISONED", 3: "", 4: ""}
    assert b"secret" not in b"".join(done.payload for done in items.results)


async def test_suspects_run_one_at_a_time_beside_newcomers() -> None:
    items = FakeItems()
    items.add(uuid4(), 8)
    for item in list(items.items.values())[:4]:
        item.attempt_count = 1  # Lost with a worker.
    suspects = peak = 0

    async def answer(held: Held) -> Done:
        nonlocal suspects, peak
        suspects += held.is_suspect
        peak = max(peak, suspects)
        await asyncio.sleep(0.02)
        suspects -= held.is_suspect
        return await at_once(held)

    async with working(items, answer, places=4):
        await until(lambda: len(items.results) == 8)
    assert peak == 1


async def test_what_no_worker_survived_is_not_begun_again() -> None:
    items = FakeItems()
    items.add(uuid4(), 1)
    next(iter(items.items.values())).attempt_count = ATTEMPTS_MAX

    async def answer(held: Held) -> Done:
        raise AssertionError

    async with working(items, answer):
        await until(lambda: items.results)
    assert reason(items.results[0]) == "ITEM_POISONED"


async def test_an_item_that_is_lost_is_given_up_and_not_written() -> None:
    items, batch_id = FakeItems(), uuid4()
    items.add(batch_id, 1)
    begun, ended = asyncio.Event(), asyncio.Event()

    async def answer(held: Held) -> Done:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    async with working(items, answer) as (_, registry):
        await asyncio.wait_for(begun.wait(), WITHIN_S)
        items.cancelled.add(batch_id)
        await asyncio.wait_for(ended.wait(), WITHIN_S)
        await until(lambda: registry.get_sample_value("ollamesh_batch_items_total", {"outcome": "lost"}) == 1)
        assert registry.get_sample_value("ollamesh_batch_items_running") == 0
    assert items.results == []


async def test_leases_are_renewed_while_an_item_runs() -> None:
    items = FakeItems(
        lease_s=0.03
    )  # So that it is renewed each 0.01 s of our clock; that of the store stands still.
    items.add(uuid4(), 1)
    go = asyncio.Event()

    async def answer(held: Held) -> Done:
        await go.wait()
        return await at_once(held)

    (item,) = items.items.values()
    async with working(items, answer):
        await until(lambda: item.due_s)
        for _ in range(5):
            item.due_s -= 0.02
            await until(lambda: item.due_s == items.lease_s)
        assert item.fence == 1
        go.set()
        await until(lambda: items.results)


async def test_an_item_that_comes_back_to_the_worker_that_lost_it_is_done_once() -> None:
    items = FakeItems()
    items.add(uuid4(), 1)
    runs: list[Held] = []
    go = asyncio.Event()

    async def answer(held: Held) -> Done:
        runs.append(held)
        await go.wait()
        return await at_once(held)

    async with working(items, answer):
        await until(lambda: runs)
        items.now_s += 2 * items.lease_s  # Its lease has passed, and it takes the item anew.
        await until(lambda: len(runs) == 2)
        go.set()
        await until(lambda: items.results)
    assert [done.held for done in items.results] == [runs[1]]


async def test_while_the_store_is_away_no_more_is_done_than_can_be_remembered() -> None:
    items = FakeItems()
    items.add(uuid4(), 30)
    answered = 0
    goes_away = True

    async def answer(held: Held) -> Done:
        nonlocal answered
        answered += 1
        items.is_away = items.is_away or goes_away
        return await at_once(held)

    async with working(items, answer, places=2):
        await until(lambda: items.is_away)
        await asyncio.sleep(0.1)  # Time to do more, if it did.
        assert answered <= 4
        items.is_away = goes_away = False
        await until(lambda: len(items.results) == 30)
    assert answered == 30, "what was done was not done again"


async def test_what_a_worker_has_when_it_ends_is_put_back_without_blame() -> None:
    items = FakeItems()
    items.add(uuid4(), 3)
    begun = 0

    async def answer(held: Held) -> Done:
        nonlocal begun
        begun += 1
        await asyncio.Event().wait()
        raise AssertionError

    async with working(items, answer):
        await until(lambda: begun == 3)
    assert [item.attempt_count for item in items.items.values()] == [0, 0, 0]
    assert [item.due_s for item in items.items.values()] == [0, 0, 0]
