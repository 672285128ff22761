"""Batches while replicas die, stand still and come back (R1, R15, R17). `make chaos` does it for longer."""

import asyncio
import random
from collections import Counter

import grpc.aio
import pytest
from ollamesh.inference.v1 import batch_pb2 as pb

from services.common.grpc.client import held
from tests.chaos.knobs import KILLS, SEED
from tests.chaos.replicas import Replica, Replicas, replicas
from tests.contract.batch_store import fetch
from tests.fakes.fake_ollama import FakeOllama
from tests.service.inference_app import TINY, Service, preload
from tests.service.inference_batches import Result, chat_item, create, facts, get, reason
from tests.stack import Database

PAUSED_S = 2.0  # Longer than a lease.
LEASE_S = 1.0
ITEMS_PER_KILL = 40


async def follow(service: Service, batch_id: str) -> list[Result]:
    """Read results to the end, over every loss of the replica that tells them."""
    found: list[Result] = []
    while True:
        request = pb.StreamBatchResultsRequest(
            batch_id=batch_id, after_sequence=found[-1].sequence if found else 0
        )
        try:
            with held(service.call("StreamBatchResults", request, timeout_s=600)) as call:
                async for result in call:
                    found.append(result)  # noqa: PERF401 - What came before a loss counts.
        except grpc.aio.AioRpcError as error:
            if error.code() not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}:
                raise
            await asyncio.sleep(0.1)
        else:
            return found


async def disturb(running: Replicas, rng: random.Random, *, count: int, every_s: float) -> None:
    """Kill replicas, or have them stand still for longer than their leases, one after the other."""
    for _ in range(count):
        await asyncio.sleep(every_s * rng.uniform(0.5, 1.5))
        victim: Replica = rng.choice(running.each)
        if rng.random() < 0.3:
            victim.pause()
            await asyncio.sleep(PAUSED_S)
            victim.go_on()
        else:
            await victim.kill()
            await victim.start()
            await victim.until_ready(1)


@pytest.mark.timeout(120 + 60 * KILLS)
async def test_whatever_replicas_die_each_item_has_one_result_and_is_paid_once(database: Database) -> None:
    rng = random.Random(SEED)
    count = KILLS * ITEMS_PER_KILL
    dsn = database("inference")
    async with FakeOllama(TINY, parallel=64, token_s=0.01) as fake:
        await preload(fake, TINY)
        settings = {"DATABASE_URL": dsn, "batch_lease_s": LEASE_S, "batch_workers": 3, "instance_slots": 8}
        async with replicas([fake.url], count=2, **settings) as running:
            items = [chat_item(f"{index} [write {rng.randint(5, 60)}]") for index in range(count)]
            made = await create(running.services[0], items)
            readers = [asyncio.create_task(follow(each, made.batch_id)) for each in running.services]
            await disturb(running, rng, count=KILLS, every_s=1.0)
            results, again = await asyncio.gather(*readers)
            ended = await get(running.services[1], made.batch_id)
    assert again == results, "all replicas tell the same"
    assert [result.sequence for result in results] == list(range(1, count + 1))
    assert sorted(result.item_index for result in results) == list(range(count))
    assert Counter(map(reason, results)) == {"": count}
    assert (ended.state, ended.succeeded_count, ended.failed_count) == (pb.BATCH_STATE_DONE, count, 0)
    await check_ledger(dsn, results)


async def check_ledger(dsn: str, results: list[Result]) -> None:
    """What was charged is what was answered, each once."""
    rows = await fetch(dsn, "SELECT entry_id, output_token_count FROM usage_entries")
    assert len({row["entry_id"] for row in rows}) == len(rows) == len(results)
    charged = sum(row["output_token_count"] for row in rows)
    assert charged == sum(result.answer.usage.output_token_count for result in results)
    assert await fetch(dsn, "SELECT 1 FROM batch_items") == []


async def test_an_item_that_kills_its_replica_is_given_up_after_three_and_the_others_proceed(
    database: Database,
) -> None:
    """R15. Whoever begins the deadly item is killed as soon as the fleet hears of it."""
    dsn = database("inference")
    async with FakeOllama(TINY, parallel=64, token_s=0.02) as fake:
        await preload(fake, TINY)
        settings = {"DATABASE_URL": dsn, "batch_lease_s": LEASE_S, "batch_workers": 4, "instance_slots": 8}
        async with replicas([fake.url], count=1, **settings) as running:
            (victim,) = running.each
            items = [chat_item(f"{index} [write 20]") for index in range(7)]
            items[2] = chat_item("deadly [write 500]")
            made = await create(victim.service, items)
            reader = asyncio.create_task(follow(victim.service, made.batch_id))
            for deaths in range(3):
                await until_deadly(fake, deaths + 1)
                await victim.kill()
                await victim.start()
            results = await reader
    assert sorted(result.item_index for result in results) == list(range(7))
    by_index = {result.item_index: result for result in results}
    assert [index for index, result in by_index.items() if reason(result)] == [2]
    assert reason(by_index[2]) == "ITEM_POISONED"
    assert facts(by_index[2]) == {"attempt_count": "3", "last_reason": "WORKER_LOST"}
    assert sum("deadly" in str(request.body) for request in fake.requests) == 3


async def until_deadly(fake: FakeOllama, count: int) -> None:
    async with asyncio.timeout(60):
        while sum("deadly" in str(request.body) for request in fake.requests) < count:
            await asyncio.sleep(0.005)
