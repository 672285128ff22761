"""What assistants may rely on in PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from services.agent.adapters.postgres_assistants import PostgresAssistants
from services.agent.assistants import AssistantRecord
from services.agent.core.ids import AssistantId, Owner
from services.agent.errors import AssistantNotFound, RequestIdReused, TooManyObjects
from services.agent.ports import PageRequest
from services.common.postgres import Database
from tests.contract.agent_replica import ANN, BOB, OTHER_ANN, execute, retry
from tests.stack import Database as Migrated

COUNT_MAX = 5


@pytest.fixture
async def store(database: Migrated) -> AsyncIterator[PostgresAssistants]:
    async with Database.connect(database("agent"), connections_max=4) as connected:
        yield PostgresAssistants(connected, count_max=COUNT_MAX)


async def create(
    store: PostgresAssistants, owner: Owner = ANN, config: bytes = b"\x00first", request: str = ""
) -> AssistantRecord:
    again = retry(request, config) if request else None
    return await store.create(owner, AssistantId(uuid4()), "na\0me", config, again)


async def test_every_version_is_kept_as_it_was_given(store: PostgresAssistants) -> None:
    first = await create(store)
    assert (first.version, first.display_name, first.config) == (1, "na\0me", b"\x00first")
    second = await store.update(ANN, first.assistant_id, b"second", None)
    assert (second.version, second.config, second.create_time) == (2, b"second", first.create_time)
    assert second.update_time > first.update_time
    assert await store.find(ANN, first.assistant_id) == second
    assert await store.find(ANN, first.assistant_id, version=1) == first
    with pytest.raises(AssistantNotFound):
        await store.find(ANN, first.assistant_id, version=3)


@pytest.mark.parametrize("stranger", [BOB, OTHER_ANN])
async def test_to_others_it_does_not_exist(store: PostgresAssistants, stranger: Owner) -> None:
    made = await create(store)
    with pytest.raises(AssistantNotFound):
        await store.find(stranger, made.assistant_id)
    with pytest.raises(AssistantNotFound):
        await store.update(stranger, made.assistant_id, b"", None)
    assert (await store.page(stranger, PageRequest(size=9, after=None))).items == []
    await store.delete(stranger, made.assistant_id)
    assert await store.find(ANN, made.assistant_id) == made


async def test_the_list_is_whole_and_in_order_whatever_the_page(store: PostgresAssistants) -> None:
    made = [await create(store) for _ in range(COUNT_MAX)]
    latest = await store.update(ANN, made[1].assistant_id, b"", None)
    await create(store, BOB)
    for size in (1, 2, 5, 6):
        found: list[AssistantRecord] = []
        after: int | None = None
        while True:
            page = await store.page(ANN, PageRequest(size=size, after=after))
            assert len(page.items) <= size
            found += page.items
            if (after := page.next_after) is None:
                break
        assert found == [made[4], made[3], made[2], latest, made[0]]


async def test_a_repeated_request_finds_the_version_that_it_made(store: PostgresAssistants) -> None:
    first = await create(store, request="r1")
    second = await store.update(ANN, first.assistant_id, b"second", retry("r2", b"second"))
    await store.update(ANN, first.assistant_id, b"third", None)
    assert await create(store, request="r1") == first
    assert await store.update(ANN, first.assistant_id, b"second", retry("r2", b"second")) == second
    assert (await store.find(ANN, first.assistant_id)).version == 3
    with pytest.raises(RequestIdReused):
        await create(store, config=b"other", request="r1")
    with pytest.raises(RequestIdReused):
        await store.update(ANN, first.assistant_id, b"other", retry("r2", b"other"))


async def test_twins_that_race_make_one_version(store: PostgresAssistants) -> None:
    first, *others = await asyncio.gather(*(create(store, request="r") for _ in range(4)))
    assert all(other == first for other in others)
    raced = (store.update(ANN, first.assistant_id, b"second", retry("r2", b"second")) for _ in range(4))
    assert {found.version for found in await asyncio.gather(*raced)} == {2}


async def test_updates_that_race_are_versions_without_a_gap(store: PostgresAssistants) -> None:
    made = await create(store)
    raced = (store.update(ANN, made.assistant_id, bytes([n]), None) for n in range(6))
    assert sorted(found.version for found in await asyncio.gather(*raced)) == [2, 3, 4, 5, 6, 7]


async def test_a_user_has_so_many_and_what_is_refused_leaves_nothing(store: PostgresAssistants) -> None:
    made = [await create(store) for _ in range(COUNT_MAX)]
    with pytest.raises(TooManyObjects) as refused:
        await create(store, request="r")
    assert refused.value.facts == {"limit": "assistants", "max": str(COUNT_MAX)}
    assert await create(store, BOB)
    await store.delete(ANN, made[0].assistant_id)
    assert (await create(store, config=b"another body", request="r")).version == 1


async def test_a_deleted_one_leaves_nothing_and_may_be_deleted_again(
    store: PostgresAssistants, database: Migrated
) -> None:
    made = await create(store, request="r1")
    await store.update(ANN, made.assistant_id, b"second", retry("r2", b"second"))
    for _ in range(2):
        await store.delete(ANN, made.assistant_id)
    with pytest.raises(AssistantNotFound):
        await store.find(ANN, made.assistant_id)
    await execute(
        database,
        "DO $$ BEGIN ASSERT NOT EXISTS (SELECT FROM assistants) AND NOT EXISTS (SELECT FROM assistant_versions)"
        " AND NOT EXISTS (SELECT FROM requests); END $$",
    )
    assert (await create(store, request="r1")).assistant_id != made.assistant_id
