"""`make bench-batch`: what it costs to have items answered as a batch, and whether all of them are while workers die.

Overhead: the same items at the same concurrency, once straight to the fake fleet and once as a batch: taken from
PostgreSQL, answered through the gateway, written with their charge. Rounds of both take turns.

Deaths: a batch of BATCH_ITEMS (10,000) over three replicas, of which one is killed every five seconds and started anew.
Then every item must have one result, and every answer one entry in the ledger. An item that happens to be at work in three
that are killed is given up, as a deadly one must be: of 10,000 items that is none in most runs, and one in some.
"""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from statistics import median

import aiohttp

from tests.bench.support.report import Figure, report
from tests.bench.support.stub import Stub, stub
from tests.chaos.replicas import Replica, Replicas, replicas
from tests.chaos.test_batches import follow
from tests.contract.batch_store import fetch
from tests.service.inference_batches import Result, chat_item, create, until_batch
from tests.stack import Database, running_postgres

ITEM_COUNT = int(os.environ.get("BATCH_ITEMS", "10000"))
# Of each round without deaths: some twenty seconds.
ROUND_ITEM_COUNT = min(1600, ITEM_COUNT)
ROUNDS = 3
PLACES, REPLICA_COUNT = 20, 2
MODEL = "stub-n40-i10000"  # 40 tokens, one each 10 ms.
DEATH_REPLICA_COUNT, DEATH_EVERY_S = 3, 5.0
LEASE_S = 3.0
OVERHEAD_MAX = 1.10


def prompt(index: int) -> str:
    return f"item {index}"


async def direct_s(upstream: Stub, count: int, *, concurrency: int) -> float:
    """Answer so many items straight from the fleet; return how long that took."""
    numbers = iter(range(count))

    async def work(http: aiohttp.ClientSession) -> None:
        for number in numbers:
            messages = [{"role": "user", "content": prompt(number)}]
            body = {"model": MODEL, "messages": messages, "stream": True}
            async with http.post(f"{upstream.url}/api/chat", json=body) as answer:
                answer.raise_for_status()
                async for _ in answer.content:
                    pass

    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(connector=connector) as http:
        began_s = time.monotonic()
        await asyncio.gather(*(work(http) for _ in range(concurrency)))
        return time.monotonic() - began_s


async def batch_s(running: Replicas, count: int) -> float:
    """Answer so many as a batch; return how long that took, from its acceptance to its last result."""
    service = running.services[0]
    items = [chat_item(prompt(number), model=MODEL) for number in range(count)]
    made = await create(service, items)
    ended = await until_batch(service, made.batch_id)
    assert ended.succeeded_count == count, ended
    return ended.end_time.ToNanoseconds() / 1e9 - made.create_time.ToNanoseconds() / 1e9


async def overhead(upstream: Stub, database: Database) -> list[Figure]:
    settings = {"DATABASE_URL": database("inference"), "batch_workers": PLACES, "instance_slots": 100}
    straight, as_batch = [], []
    async with replicas([upstream.url], count=REPLICA_COUNT, **settings) as running:
        await batch_s(running, 100)  # To warm up.
        for _ in range(ROUNDS):
            straight.append(await direct_s(upstream, ROUND_ITEM_COUNT, concurrency=PLACES * REPLICA_COUNT))
            as_batch.append(await batch_s(running, ROUND_ITEM_COUNT))
    per_item_ms = [seconds * 1e3 / ROUND_ITEM_COUNT for seconds in (median(as_batch), median(straight))]
    return [
        Figure(
            name=f"time per item of {ROUND_ITEM_COUNT}, {PLACES * REPLICA_COUNT} at once, against the fleet by itself",
            value=per_item_ms[0],
            unit="ms",
            baseline=per_item_ms[1],
            goal=per_item_ms[1] * OVERHEAD_MAX,
        )
    ]


async def kill(running: Replicas, rng: random.Random, deaths: list[int]) -> None:
    """Kill replicas and start them anew, one every some seconds, until cancelled."""
    while True:
        await asyncio.sleep(DEATH_EVERY_S)
        victim: Replica = rng.choice(running.each)
        await victim.kill()
        deaths.append(1)
        await victim.start()


async def with_deaths(upstream: Stub, database: Database) -> tuple[list[Figure], str]:
    dsn = database("inference")
    settings = {
        "DATABASE_URL": dsn,
        "batch_workers": PLACES,
        "batch_lease_s": LEASE_S,
        "instance_slots": 100,
    }
    deaths: list[int] = []
    async with replicas([upstream.url], count=DEATH_REPLICA_COUNT, **settings) as running:
        items = [chat_item(prompt(number), model=MODEL) for number in range(ITEM_COUNT)]
        made = await create(running.services[0], items)
        killing = asyncio.create_task(kill(running, random.Random(1), deaths))
        began_s = time.monotonic()
        results = await follow(running.services[1], made.batch_id)
        took_s = time.monotonic() - began_s
        killing.cancel()
        await asyncio.wait([killing])
    charged = Counter(row["entry_id"] for row in await fetch(dsn, "SELECT entry_id FROM usage_entries"))
    return judged(results, charged, took_s), f"{len(deaths)} replicas were killed in {took_s:.0f} s"


def judged(results: Sequence[Result], charged: Counter[object], took_s: float) -> list[Figure]:
    per_item = Counter(result.item_index for result in results)
    answered = sum(result.HasField("answer") for result in results)
    return [
        Figure(name="results", value=len(per_item), unit="", goal=ITEM_COUNT, at_least=True),
        Figure(name="items given up after three lost attempts", value=len(results) - answered, unit=""),
        Figure(name="results that came twice", value=len(results) - len(per_item), unit="", goal=0),
        Figure(name="charges for answers", value=len(charged), unit="", goal=answered, at_least=True),
        Figure(name="charges made twice", value=charged.total() - len(charged), unit="", goal=0),
        Figure(name="items per second while replicas die", value=len(results) / took_s, unit="/s"),
    ]


def main() -> None:
    with stub(f"{MODEL}:latest") as upstream, running_postgres() as server:
        with server.fresh() as database:
            figures = asyncio.run(overhead(upstream, database))
        with server.fresh() as database:
            survived, remark = asyncio.run(with_deaths(upstream, database))
    report("batch", rounds=ROUNDS, figures=[*figures, *survived], remarks=[remark])


if __name__ == "__main__":
    main()
