"""What workers may rely on in PostgreSQL: each item is somebody's, and has one result."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from uuid import uuid5

import pytest

from services.inference.batches.ports import Held, Place, PutBack
from services.inference.core.batches import State
from tests.contract.batch_store import (
    ANN,
    LEASE_S,
    OTHER_ANN,
    Replica,
    done,
    entry,
    execute,
    fetch,
    indexes,
    lapse,
    replica,
)
from tests.stack import Database as Migrated


@pytest.fixture
def dsn(database: Migrated) -> str:
    return database("inference")


@pytest.fixture
async def one(dsn: str) -> AsyncIterator[Replica]:
    async with replica(dsn) as found:
        yield found


@pytest.fixture
async def other(dsn: str) -> AsyncIterator[Replica]:
    async with replica(dsn) as found:
        yield found


async def test_items_are_taken_in_their_order_and_by_one_alone(one: Replica, other: Replica) -> None:
    batch = await one.batch(5)
    assert indexes(await one.take_all(batch.batch_id, 2)) == [0, 1]
    assert indexes(await other.take_all(batch.batch_id)) == [2, 3, 4]
    assert await one.take_all(batch.batch_id) == []
    found = await one.batches.find(ANN, batch.batch_id)
    assert (found.state, found.start_time is not None) == (State.RUNNING, True)


async def test_what_is_taken_is_what_was_given(one: Replica) -> None:
    batch = await one.batch(items=[b"\0odd\xff"])
    (held,) = await one.take_all(batch.batch_id)
    assert (held.place, held.request) == (Place(batch.batch_id, 0), b"\0odd\xff")
    assert (held.creator.principal, held.creator.roles) == (ANN, ("user",))
    assert (held.attempt_count, held.put_back_count, held.is_suspect) == (1, 0, False)


async def test_racing_workers_share_a_batch_without_a_word(one: Replica, other: Replica) -> None:
    batch = await one.batch(200)
    taken: Counter[int] = Counter()

    async def work(side: Replica) -> None:
        while held := await side.take_all(batch.batch_id, 7):
            taken.update(indexes(held))
            assert len(await side.items.finish([done(item) for item in held])) == len(held)

    await asyncio.gather(*(work(side) for side in (one, other) for _ in range(3)))
    assert taken == Counter(range(200))
    found = await one.batches.find(ANN, batch.batch_id)
    assert (found.state, found.succeeded_count, found.failed_count) == (State.DONE, 200, 0)
    assert await sequences(one, batch.batch_id) == list(range(1, 201))


async def sequences(side: Replica, batch_id: object) -> list[int]:
    found: list[int] = []
    while True:
        page = await side.batches.results(ANN, batch_id, after_sequence=found[-1] if found else 0)  # type: ignore[arg-type]
        found += [result.sequence for result in page.found]
        if not page.found:
            return found


async def test_a_lapsed_lease_gives_an_item_to_somebody_else_and_its_old_holder_nothing(
    one: Replica, other: Replica, dsn: str
) -> None:
    """R17: a zombie's write is fenced off."""
    batch = await one.batch(1)
    (zombie,) = await one.take_all(batch.batch_id)
    assert await other.items.take_suspect() is None
    await lapse(dsn)
    assert await other.take_all(batch.batch_id) == [], "it is no newcomer any more"
    heir = await other.items.take_suspect()
    assert heir is not None
    assert (heir.place, heir.attempt_count, heir.is_suspect) == (zombie.place, 2, True)
    assert await one.items.keep([zombie], renew=True) == set()
    assert await one.items.keep([zombie], renew=False) == set()
    assert await one.items.finish([done(zombie, payload=b"zombie")]) == set()
    await one.items.put_back([PutBack(held=zombie, delay_s=0, counts=False)])
    assert await other.items.keep([heir], renew=False) == {heir.claim}
    assert await other.items.finish([done(heir, payload=b"heir")]) == {heir.claim}
    assert await one.items.finish([done(zombie, payload=b"zombie")]) == set()
    page = await one.batches.results(ANN, batch.batch_id, after_sequence=0)
    assert [result.payload for result in page.found] == [b"heir"]


async def test_an_item_is_charged_with_its_result_and_only_then(one: Replica, dsn: str) -> None:
    batch = await one.batch(2)
    first, other_item = await one.take_all(batch.batch_id)
    await lapse(dsn)
    taken_again = [await one.items.take_suspect(), await one.items.take_suspect()]
    (heir,) = (held for held in taken_again if held is not None and held.place == first.place)
    told = [done(first, entry=entry(batch.batch_id, 0)), done(heir, entry=entry(batch.batch_id, 0))]
    assert await one.items.finish([*told, done(other_item, entry=entry(batch.batch_id, 1))]) == {heir.claim}
    assert await one.items.finish(told) == set()
    rows = await fetch(dsn, "SELECT entry_id FROM usage_entries")
    assert [row["entry_id"] for row in rows] == [uuid5(batch.batch_id, "0")]


async def test_a_lease_that_is_renewed_does_not_lapse(one: Replica, dsn: str) -> None:
    batch = await one.batch(2)
    held = await one.take_all(batch.batch_id)
    await lapse(dsn)
    assert await one.items.keep(held, renew=False) == {item.claim for item in held}, "still nobody else's"
    assert await one.items.keep(held, renew=True) == {item.claim for item in held}
    assert await one.items.take_suspect() is None
    (row,) = await fetch(dsn, "SELECT min(due_time) - now() AS left FROM batch_items")
    assert LEASE_S - 30 < row["left"].total_seconds() <= LEASE_S


async def test_what_is_put_back_waits_and_counts_as_it_should(one: Replica, dsn: str) -> None:
    batch = await one.batch(3)
    refused, failed, ended = await one.take_all(batch.batch_id)
    await one.items.put_back(
        [
            PutBack(held=refused, delay_s=900, counts=False),
            PutBack(held=failed, delay_s=0, counts=True),
            PutBack(held=ended, delay_s=0, counts=False),
        ]
    )
    suspect = await one.items.take_suspect()
    assert suspect is not None
    assert (suspect.place, suspect.attempt_count, suspect.put_back_count) == (failed.place, 2, 1)
    (again,) = await one.take_all(batch.batch_id)
    assert (again.place, again.attempt_count, again.put_back_count) == (ended.place, 1, 1)
    await execute(dsn, "UPDATE batch_items SET due_time = now() WHERE item_index = 0")
    assert indexes(await one.take_all(batch.batch_id)) == [0]


async def test_what_is_put_back_twice_is_put_back_once(one: Replica) -> None:
    batch = await one.batch(1)
    (held,) = await one.take_all(batch.batch_id)
    again = [PutBack(held=held, delay_s=0, counts=False)]
    await one.items.put_back(again)
    await one.items.put_back(again)  # Its reply was lost, or its process ended meanwhile.
    (taken,) = await one.take_all(batch.batch_id)
    assert (taken.attempt_count, taken.put_back_count) == (1, 1)


async def test_results_of_a_moment_are_numbered_without_a_gap_and_counted(one: Replica) -> None:
    batch = await one.batch(4)
    first, second, third, fourth = await one.take_all(batch.batch_id)
    assert await one.items.finish([done(third, succeeded=False), done(first)]) == {third.claim, first.claim}
    assert await one.items.finish([done(first), done(second)]) == {second.claim}, "nothing twice"
    found = await one.batches.find(ANN, batch.batch_id)
    assert (found.succeeded_count, found.failed_count, found.state) == (2, 1, State.RUNNING)
    page = await one.batches.results(ANN, batch.batch_id, after_sequence=0)
    assert [(result.sequence, result.succeeded) for result in page.found] == [
        (1, False),
        (2, True),
        (3, True),
    ]
    assert not page.is_last
    await one.items.finish([done(fourth)])
    found = await one.batches.find(ANN, batch.batch_id)
    assert (found.state, found.end_time is not None) == (State.DONE, True)
    page = await one.batches.results(ANN, batch.batch_id, after_sequence=3)
    assert ([result.sequence for result in page.found], page.is_last) == ([4], True)


async def test_results_of_several_batches_are_written_at_once(one: Replica) -> None:
    batches = [await one.batch(2) for _ in range(3)]
    held = [item for batch in batches for item in await one.take_all(batch.batch_id)]
    random.Random(1).shuffle(held)
    assert await one.items.finish([done(item) for item in held]) == {item.claim for item in held}
    for batch in batches:
        assert (await one.batches.find(ANN, batch.batch_id)).state is State.DONE


async def test_a_cancelled_batch_gives_and_takes_nothing_more(one: Replica, dsn: str) -> None:
    batch = await one.batch(4)
    first, second = await one.take_all(batch.batch_id, 2)
    await one.items.finish([done(first)])
    ended = await one.batches.cancel(ANN, batch.batch_id)
    assert (ended.state, ended.succeeded_count, ended.end_time is not None) == (State.CANCELLED, 1, True)
    assert await one.batches.cancel(ANN, batch.batch_id) == ended, "idempotent"
    assert await one.take_all(batch.batch_id) == []
    assert await one.items.keep([second], renew=False) == set()
    assert await one.items.finish([done(second)]) == set()
    await lapse(dsn)
    assert await one.items.take_suspect() is None
    page = await one.batches.results(ANN, batch.batch_id, after_sequence=0)
    assert ([result.sequence for result in page.found], page.is_last) == ([1], True)
    assert (await one.items.sweep())["items"] == 3
    assert await fetch(dsn, "SELECT 1 FROM batch_items") == []
    assert await fetch(dsn, "SELECT 1 FROM batches WHERE left_over") == []


async def test_a_batch_that_is_done_stays_done(one: Replica) -> None:
    batch = await one.batch(1)
    await one.items.finish([done(item) for item in await one.take_all(batch.batch_id)])
    assert (await one.batches.cancel(ANN, batch.batch_id)).state is State.DONE


async def test_each_organisation_offers_its_oldest_batch_that_has_something_to_do(
    one: Replica, dsn: str
) -> None:
    first, second, others = await one.batch(1), await one.batch(1), await one.batch(1, OTHER_ANN)
    assert {batch.batch_id for batch in await one.items.open(paused=())} == {first.batch_id, others.batch_id}
    await one.take_all(first.batch_id)
    assert {batch.batch_id for batch in await one.items.open(paused=())} == {second.batch_id, others.batch_id}
    assert {batch.organization_id for batch in await one.items.open(paused=[second.batch_id])} == {"org-2"}
    await one.batches.cancel(ANN, second.batch_id)
    assert [batch.batch_id for batch in await one.items.open(paused=())] == [others.batch_id]


async def test_after_its_window_a_batch_is_taken_from_whoever_has_it(
    one: Replica, other: Replica, dsn: str
) -> None:
    batch = await one.batch(3)
    (held,) = await one.take_all(batch.batch_id, 1)
    await execute(dsn, "UPDATE batches SET due_time = now()")
    assert await one.items.open(paused=()) == []
    assert await one.take_all(batch.batch_id) == []
    seized = await other.items.seize_overdue(count_max=2)
    assert indexes(seized) == [0, 1]
    seized = [*seized, *(await other.items.seize_overdue(count_max=2))]
    assert await one.items.keep([held], renew=True) == set()
    assert await one.items.finish([done(held)]) == set()
    last = {item.place.item_index: item for item in seized}
    assert len(await other.items.finish([done(item, succeeded=False) for item in last.values()])) >= 1
    while again := await other.items.seize_overdue(count_max=5):
        await other.items.finish([done(item, succeeded=False) for item in again])
    found = await one.batches.find(ANN, batch.batch_id)
    assert (found.state, found.failed_count) == (State.DONE, 3)
    assert await sequences(one, batch.batch_id) == [1, 2, 3]


async def test_what_has_expired_is_swept_away_whole(one: Replica, dsn: str) -> None:
    done_with, abandoned, kept = await one.batch(2), await one.batch(2), await one.batch(2)
    for batch in (done_with, kept):
        await one.items.finish([done(item) for item in await one.take_all(batch.batch_id)])
    await one.take_all(abandoned.batch_id, 1)
    ids = f"'{done_with.batch_id}', '{abandoned.batch_id}'"
    await execute(dsn, f"UPDATE batches SET expire_time = now() WHERE batch_id IN ({ids})")
    while any((await one.items.sweep()).values()):
        pass
    rows = await fetch(dsn, "SELECT DISTINCT batch_id FROM batch_results")
    assert [row["batch_id"] for row in rows] == [kept.batch_id]
    assert await fetch(dsn, "SELECT 1 FROM batch_items") == []
    rows = await fetch(dsn, "SELECT batch_id FROM batches")
    assert [row["batch_id"] for row in rows] == [kept.batch_id]


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_workers_do_each_item_has_one_result(dsn: str, seed: int) -> None:
    """Workers that stop, come back and contradict themselves, in a random order."""
    rng = random.Random(seed)
    async with replica(dsn) as side:
        batch = await side.batch(12)
        held: list[Held] = []
        written: Counter[Place] = Counter()
        for _ in range(150):
            act = rng.random()
            if act < 0.3:
                held += await side.take_all(batch.batch_id, rng.randint(1, 3))
            elif act < 0.45 and (suspect := await side.items.take_suspect()):
                held.append(suspect)
            elif act < 0.6 and held:
                some = rng.sample(held, min(len(held), 3))
                good = await side.items.finish([done(item, succeeded=rng.random() < 0.5) for item in some])
                written.update(claim.place for claim in good)
            elif act < 0.7 and held:
                back = PutBack(held=rng.choice(held), delay_s=0, counts=rng.random() < 0.5)
                await side.items.put_back([back])
            elif act < 0.8:
                await lapse(dsn)
            elif held:
                await side.items.keep(rng.sample(held, min(len(held), 4)), renew=rng.random() < 0.5)
        assert all(count == 1 for count in written.values())
        page = await side.batches.results(ANN, batch.batch_id, after_sequence=0)
        assert [result.sequence for result in page.found] == list(range(1, len(written) + 1))
        found = await side.batches.find(ANN, batch.batch_id)
        assert found.succeeded_count + found.failed_count == len(written)
        left = await fetch(dsn, "SELECT count(*) AS count FROM batch_items")
        assert left[0]["count"] == 12 - len(written)
