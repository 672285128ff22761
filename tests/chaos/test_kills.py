"""R1: gateways are killed behind the edge, under unary calls, streams and a batch, in an order that is drawn.

OLLAMESH_CHAOS_KILLS is how often (`make chaos` kills more), OLLAMESH_CHAOS_SEED draws another order.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from ollamesh.client import CallError, Client, batches

from tests.chaos.callers import Unary, client, keep_asking, keep_chatting, ledger, read_again
from tests.chaos.history import Batch, Chat, History, Written, failed, faults
from tests.chaos.knobs import KILLS, SEED
from tests.chaos.replicas import Replicas, replicas
from tests.contract.batch_store import fetch
from tests.fakes.fake_ollama import FakeOllama
from tests.fakes.identity import Identity
from tests.service import edge_app
from tests.service.inference_app import TINY, WITHIN_S, preload
from tests.service.streams_app import SECRETS
from tests.stack import Database

UNARY_CALLERS, STREAM_CALLERS = 16, 6
ITEMS_PER_KILL = 10
FAILED_SHARE_MAX = 0.005
LOST_S = 1.5  # What a process recorded in its last second is lost with it.
SILENT_S_MAX = 25.0  # The requirement is 2 s, on a machine of one's own; what is measured is printed.


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Two replicas behind a real edge, over the real stores."""

    stack: edge_app.Stack
    identity: Identity
    running: Replicas
    dsn: str


@asynccontextmanager
async def world(database: Database, redis_url: str) -> AsyncIterator[World]:
    settings: dict[str, Any] = {
        "DATABASE_URL": database("inference"),
        "REDIS_URL": redis_url,
        "instance_slots": 64,
        "batch_lease_s": 1.0,
        **SECRETS,
    }
    async with AsyncExitStack() as opened:
        fake = await opened.enter_async_context(FakeOllama(TINY, parallel=64, token_s=0.02))
        await preload(fake, TINY)
        running = await opened.enter_async_context(replicas([fake.url], count=2, **settings))
        ports = tuple(int(each.environment["OLLAMESH_INFERENCE_PORT"]) for each in running.each)
        auth_port = int(running.each[0].environment["OLLAMESH_AUTH_TARGET"].rpartition(":")[2])
        env = edge_app.settings(auth_port, {"inference": ports}, OLLAMESH_INFERENCE_PROCESSES="1")
        stack = await opened.enter_async_context(edge_app.serving(env))
        await edge_app.until_healthy(stack, 2)
        identity = running.services[0].identity
        yield World(stack=stack, identity=identity, running=running, dsn=database("inference"))


async def until_heard(caller: Client) -> None:
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                await caller.models()
            except CallError:
                await asyncio.sleep(0.05)
            else:
                return


async def kill(made: World, history: History, chance: random.Random) -> None:
    """One replica after the other is killed at a moment that is drawn, and started anew. The other one is well then."""
    for _ in range(KILLS):
        await asyncio.sleep(chance.uniform(0.3, 1.5))
        victim = chance.choice(made.running.each)
        history.killed_at_s.append(time.monotonic())
        await victim.kill()
        await victim.start()
        await victim.until_ready(1)
        await edge_app.until_healthy(made.stack, 2)


async def follow(caller: Client, history: History, count: int) -> None:
    """Have a batch answered, and read what comes of it."""
    made = await caller.create_batch(
        [batches.chat("tiny", f"item {index} [write 5]") for index in range(count)]
    )
    seen = Batch(batch_id=UUID(made.batch_id), item_count=count)
    history.batches.append(seen)
    async for result in caller.batch_results(made.batch_id, deadline_s=600):
        token_count = -1 if result.error else result.output_token_count
        seen.results.append((result.sequence, result.item_index, token_count))


def silences(chats: list[Chat], killed_at_s: list[float]) -> list[float]:
    """How long each stream that was being read when a replica was killed heard nothing then."""
    found = []
    for chat in chats:
        assert chat.ended_at_s is not None, "it has ended"
        moments = [*chat.came_at_s, chat.ended_at_s]
        found += [
            min(after for after in moments if after > at_s) - at_s
            for at_s in killed_at_s
            if chat.began_at_s < at_s < chat.ended_at_s
        ]
    return sorted(found)


@pytest.mark.timeout(180 + 30 * KILLS)
@pytest.mark.timed
async def test_whichever_gateway_dies_nobody_who_uses_the_client_notices_much(
    database: Database, redis_url: str
) -> None:
    chance, history, unary, stop = random.Random(SEED), History(), Unary(), asyncio.Event()
    async with world(database, redis_url) as made, AsyncExitStack() as opened:
        callers = [f"user:{number}" for number in range(STREAM_CALLERS)]
        clients = [
            await opened.enter_async_context(client(made.stack.url, made.identity, caller))
            for caller in callers
        ]
        for caller in clients:
            await until_heard(caller)
        async with asyncio.TaskGroup() as tasks:
            for caller, name in zip(clients, callers, strict=True):
                own = random.Random(f"{SEED} {name}")
                tasks.create_task(keep_chatting(caller, history, stop, caller=name, chance=own))
            for number in range(UNARY_CALLERS):
                own = random.Random(f"{SEED} {number}")
                tasks.create_task(keep_asking(clients[number % len(clients)], unary, stop, chance=own))
            batch = tasks.create_task(follow(clients[0], history, KILLS * ITEMS_PER_KILL))
            await kill(made, history, chance)
            await batch
            stop.set()
        await asyncio.sleep(LOST_S)  # What is recorded is written.
        written = Written(
            ledger=await ledger(made.dsn),
            resumed={
                chat.stream_id: await read_again(clients[callers.index(chat.caller)], chat.stream_id)
                for chat in history.chats[-20:]
                if chat.finished is not None
            },
            batch_results={
                batch.batch_id: await stored(made.dsn, batch.batch_id) for batch in history.batches
            },
        )
    report(history, unary)
    found = faults(history, written, lost_s=LOST_S)
    assert not found, (SEED, "\n".join(found))
    assert failed(history.chats) == [], SEED
    final = [error for error in unary.failures if not error.is_connection_lost]
    assert len(final) <= FAILED_SHARE_MAX * unary.call_count, (SEED, final)
    assert max(silences(history.chats, history.killed_at_s), default=0.0) <= SILENT_S_MAX, SEED


async def stored(dsn: str, batch_id: UUID) -> list[tuple[int, int]]:
    rows = await fetch(dsn, f"SELECT sequence, item_index FROM batch_results WHERE batch_id = '{batch_id}'")
    return [(row["sequence"], row["item_index"]) for row in rows]


def report(history: History, unary: Unary) -> None:
    quiet = silences(history.chats, history.killed_at_s)
    ends = Counter(
        chat.error.reason or chat.error.code.name if chat.error else "OK" for chat in history.chats
    )
    print(  # noqa: T201 - What `make chaos` is for.
        f"{len(history.killed_at_s)} kills: {unary.call_count} unary calls, {len(unary.failures)} failed"
        f" {dict(Counter(map(str, unary.failures)))};"
        f" streams {dict(ends)}; streams that were cut heard again after"
        f" {', '.join(f'{each:.2f}' for each in quiet)} s"
    )
