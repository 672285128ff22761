"""What callers may rely on of batches in PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from services.common.errors import StoreUnavailable
from services.inference.batches.ports import PageRequest, Record
from services.inference.core.batches import State
from services.inference.core.callers import Principal
from services.inference.errors import BatchNotFound, QuotaExceeded, RequestIdReused
from tests.contract.batch_store import ANN, BOB, OTHER_ANN, Replica, done, execute, fetch, new, replica, retry
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


async def test_a_batch_is_kept_as_it_was_given(one: Replica) -> None:
    made = await one.batch(3, display_name="na\0me", origin=b"\xff")
    assert await one.batches.find(ANN, made.batch_id) == made
    assert (made.display_name, made.origin, made.item_count) == ("na\0me", b"\xff", 3)
    assert (made.state, made.succeeded_count, made.failed_count) == (State.PENDING, 0, 0)
    assert (made.due_time - made.create_time).total_seconds() == 3600
    assert (made.expire_time - made.create_time).total_seconds() == 7200


async def test_nothing_is_worked_on_that_is_not_kept(one: Replica) -> None:
    made = await one.batch(1, window_s=9000.0)
    assert made.due_time == made.expire_time


@pytest.mark.parametrize("stranger", [BOB, OTHER_ANN])
async def test_to_others_nothing_exists(one: Replica, stranger: Principal) -> None:
    made = await one.batch()
    for asked in (
        one.batches.find(stranger, made.batch_id),
        one.batches.cancel(stranger, made.batch_id),
        one.batches.results(stranger, made.batch_id, after_sequence=0),
        one.batches.find(ANN, uuid4()),
    ):
        with pytest.raises(BatchNotFound):
            await asked
    assert await one.batches.page(stranger, PageRequest(size=9)) == ([], False)
    assert (await one.batches.find(ANN, made.batch_id)).state is State.PENDING


async def test_lists_are_whole_and_in_order_whatever_the_page(one: Replica) -> None:
    made = [await one.batch(1, origin=b"1" if number % 2 else None) for number in range(5)]
    await one.batch(1, BOB)
    for size in (1, 2, 5, 6):
        found: list[Record] = []
        more = True
        while more:
            before = found[-1].position if found else None
            page, more = await one.batches.page(ANN, PageRequest(size=size, before=before))
            assert len(page) <= size
            found += page
        assert [batch.batch_id for batch in found] == [batch.batch_id for batch in made[::-1]]
    page, _ = await one.batches.page(ANN, PageRequest(size=9, only_of_origin=True))
    assert [batch.batch_id for batch in page] == [made[3].batch_id, made[1].batch_id]


async def test_a_repeated_request_finds_what_it_made(one: Replica, dsn: str) -> None:
    first = await one.batch(retry=retry())
    assert await one.batch(retry=retry()) == first
    with pytest.raises(RequestIdReused):
        await one.batch(retry=retry(body=b"2"))
    assert (await one.batch(owner=BOB, retry=retry())).batch_id != first.batch_id, "ids are each caller's own"
    assert len(await fetch(dsn, "SELECT 1 FROM batches")) == 2
    assert len(await fetch(dsn, "SELECT 1 FROM batch_items")) == 6
    await execute(dsn, "UPDATE batch_requests SET create_time = now() - interval '1 day'")
    assert (await one.batch(retry=retry(body=b"2"))).batch_id != first.batch_id, "forgotten after a day"
    await execute(dsn, "UPDATE batch_requests SET create_time = now() - interval '26 hours'")
    assert (await one.items.sweep())["requests"] == 2


async def test_racing_twins_make_one_batch(one: Replica, other: Replica) -> None:
    """R10."""
    made = await asyncio.gather(*(side.batch(50, retry=retry()) for side in (one, other) for _ in range(4)))
    assert len({batch.batch_id for batch in made}) == 1
    assert len((await one.batches.page(ANN, PageRequest(size=9)))[0]) == 1


async def test_an_organisation_has_so_many_batches_open_and_no_more(dsn: str) -> None:
    async with replica(dsn, open_max=3) as side:
        made = await asyncio.gather(*(side.batch(1) for _ in range(8)), return_exceptions=True)
        assert sum(isinstance(one, QuotaExceeded) for one in made) == 5
        assert await side.batch(1, OTHER_ANN)
        found, _ = await side.batches.page(ANN, PageRequest(size=9))
        await side.batches.cancel(ANN, found[0].batch_id)
        assert await side.batch(1)


async def test_results_are_read_in_pages_and_of_one_kind(one: Replica) -> None:
    batch = await one.batch(150)
    held = await one.take_all(batch.batch_id)
    await one.items.finish([done(item, succeeded=item.place.item_index % 3 > 0) for item in held])
    for only, count in ((None, 150), (True, 100), (False, 50)):
        found: list[int] = []
        while True:
            page = await one.batches.results(
                ANN, batch.batch_id, after_sequence=found[-1] if found else 0, only=only
            )
            found += [result.sequence for result in page.found]
            if page.is_last:
                break
        assert len(found) == count
        assert found == sorted(found)


async def test_what_has_expired_does_not_exist(one: Replica, dsn: str) -> None:
    batch = await one.batch()
    await execute(dsn, "UPDATE batches SET expire_time = now()")
    with pytest.raises(BatchNotFound):
        await one.batches.find(ANN, batch.batch_id)
    assert await one.batches.page(ANN, PageRequest(size=9)) == ([], False)


async def test_nothing_of_a_batch_that_could_not_be_stored_is_there(one: Replica, dsn: str) -> None:
    broken = new(3, items=[b"good", None, b"good"])
    with pytest.raises(Exception):  # noqa: B017, PT011 - Whatever: the point is what is left.
        await one.batches.create(broken)
    assert await fetch(dsn, "SELECT 1 FROM batches") == []
    assert await fetch(dsn, "SELECT 1 FROM batch_items") == []


async def test_an_absent_store_is_one_failure(unused_tcp_port: int) -> None:
    async with replica(f"postgresql://inference:hunter2@127.0.0.1:{unused_tcp_port}/none") as absent:
        with pytest.raises(StoreUnavailable) as failure:
            await absent.batch()
    assert "hunter2" not in str(failure.value)
