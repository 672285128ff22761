"""Quotas, from a request to the ledger: a real PostgreSQL keeps budgets, a real Redis counts streams, Ollama is a fake."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import grpc
import pytest
from ollamesh.inference.v1 import completion_pb2 as pb
from ollamesh.inference.v1.inference_service_pb2 import EmbedRequest

from services.inference.adapters.postgres_batches import PostgresBatches
from services.inference.batches.ports import NewBatch, Record
from tests.fakes.fake_ollama import FakeOllama, Hang
from tests.service.inference_app import (
    TINY,
    WITHIN_S,
    Refusal,
    Service,
    events_of,
    preload,
    refused,
    serving_for,
    until_event,
)
from tests.service.inference_batches import chat_item, create, creating, parts
from tests.service.quota_bank import ORG_SUBJECT, PROJECT_SUBJECT, Banker, key_subject
from tests.service.streams_app import SECRETS
from tests.stack import Database

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
SHORT = pb.Options(output_token_count_max=20)


@asynccontextmanager
async def served(
    database: Database, *, replicas: int = 1, **settings: object
) -> AsyncIterator[tuple[list[Service], FakeOllama, Banker]]:
    banker = Banker(database("auth"))
    async with FakeOllama(TINY, parallel=64) as fake, AsyncExitStack() as opened:
        await preload(fake, TINY)
        made = [
            await opened.enter_async_context(serving_for(banker, fake.url, **settings))
            for _ in range(replicas)
        ]
        yield made, fake, banker


async def answered(service: Service, text: str = "hello") -> int:
    """Have a chat answered; return what it used, in tokens."""
    usage = (await events_of(service.chat(text, options=SHORT)))[-1].finished.usage
    return usage.prompt_token_count + usage.output_token_count


async def until_told(banker: Banker, tokens: int) -> None:
    async with asyncio.timeout(WITHIN_S):
        while (await banker.used()).token_count != tokens:
            await asyncio.sleep(0.05)


async def until_refused(service: Service) -> tuple[Refusal, int]:
    """Have chats answered until one is not; return why, and what the others used."""
    spent = 0
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                spent += await answered(service)
            except grpc.aio.AioRpcError:
                return await refused(service.chat(options=SHORT)), spent


async def test_a_budget_is_spent_and_then_nothing_is_queued(database: Database) -> None:
    async with served(database) as ((service,), fake, banker):
        await banker.limit(PROJECT_SUBJECT, tokens_per_day=400)
        why, spent = await until_refused(service)
        assert (why.code, why.reason) == (EXHAUSTED, "QUOTA_EXCEEDED")
        assert why.facts == {"quota": "project.tokens_per_day", "limit": "400"}
        assert why.retry_after_ms is not None
        assert 0 < why.retry_after_ms <= 86_400_000
        asked_count = len(fake.asked("/api/chat"))
        await refused(service.chat(options=SHORT))
        assert len(fake.asked("/api/chat")) == asked_count
        await until_told(banker, spent)
        assert 300 <= spent <= 400
        assert (await banker.used(ORG_SUBJECT)).token_count == spent


async def test_who_reads_headers_and_no_details_is_told_when_to_come_again(database: Database) -> None:
    async with served(database) as ((service,), _, banker):
        await banker.limit(PROJECT_SUBJECT, tokens_per_day=0)
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await service.call("Embed", EmbedRequest(model="tiny", input=["hello"]))
        told = dict(refusal.value.trailing_metadata() or ())
        assert 0 < int(told["retry-after"]) <= 86_400
        assert told["x-ratelimit-reset"] == told["retry-after"]
        assert (told["x-ratelimit-limit"], told["x-ratelimit-remaining"]) == ("0", "0")


async def test_gpu_seconds_are_a_budget_too(database: Database) -> None:
    async with served(database) as ((service,), _, banker):
        await banker.limit(ORG_SUBJECT, gpu_seconds_per_day=0)
        why, _ = await until_refused(service)  # A bank that is late to answer keeps nobody out.
        assert why.facts == {"quota": "organization.gpu_seconds_per_day", "limit": "0"}


async def test_a_key_has_a_budget_of_its_own(database: Database) -> None:
    async with served(database) as ((service,), _, banker):
        await banker.limit(key_subject("key-1"), tokens_per_day=0)
        request = EmbedRequest(model="tiny", input=["hello"])
        await service.call("Embed", request)
        why = await refused(service.call("Embed", request, claims={"api_key": "key-1"}))
        assert why.facts == {"quota": "api_key.tokens_per_day", "limit": "0"}


async def test_what_was_admitted_ends_and_is_charged_in_full(database: Database) -> None:
    async with served(database) as ((service,), fake, banker):
        await banker.limit(PROJECT_SUBJECT, tokens_per_day=50)
        fake.script(*["a"] * 19)
        stream = service.chat(options=SHORT)
        await until_event(stream, "delta")
        await banker.limit(PROJECT_SUBJECT, tokens_per_day=0)
        await until_event(stream, "finished")


async def test_a_cancelled_stream_is_charged_for_what_came(database: Database) -> None:
    async with served(database) as ((service,), fake, banker):
        fake.script("a", "b", "c", Hang())
        stream = service.chat()
        await until_event(stream, "delta")
        stream.cancel()
        async with asyncio.timeout(WITHIN_S):
            while not (await banker.used()).token_count:
                await asyncio.sleep(0.05)
        assert (await banker.used()).token_count <= 3


async def test_a_limit_that_is_set_holds_soon(database: Database) -> None:
    async with served(database) as ((service,), _, banker):
        await answered(service)
        await banker.limit(PROJECT_SUBJECT, tokens_per_day=1)
        why, _ = await until_refused(service)
        assert why.facts["quota"] == "project.tokens_per_day"


async def test_streams_at_once_are_counted_over_all_replicas(database: Database, redis_url: str) -> None:
    shared = {"REDIS_URL": redis_url, "redis_timeout_s": 0.5, **SECRETS}
    async with served(database, replicas=2, **shared) as ((one, two), fake, banker):
        await banker.limit(PROJECT_SUBJECT, concurrent_stream_count=2)
        fake.script("a", Hang())
        fake.script("a", Hang())
        first, second = one.chat("a"), two.chat("b")
        await asyncio.gather(until_event(first, "delta"), until_event(second, "delta"))
        for service in (one, two):
            why = await refused(service.chat("c"))
            assert (why.code, why.reason) == (EXHAUSTED, "QUOTA_EXCEEDED")
            assert why.facts == {"quota": "project.concurrent_stream_count", "limit": "2"}
        first.cancel()
        async with asyncio.timeout(WITHIN_S):
            while True:
                try:
                    await answered(two, "d")
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.02)
                else:
                    break
        second.cancel()


async def test_items_of_batches_are_a_budget(database: Database) -> None:
    url = database("inference")
    async with served(database, DATABASE_URL=url, batch_workers=0) as ((service,), _, banker):
        await banker.limit(PROJECT_SUBJECT, batch_items_per_day=5)
        items = [chat_item() for _ in range(3)]
        made = await create(service, items, request_id="once")
        assert (await create(service, items, request_id="once")).batch_id == made.batch_id
        assert (await banker.used()).batch_item_count == 3
        why = await refused(creating(service, parts(items)))
        assert (why.code, why.reason) == (EXHAUSTED, "QUOTA_EXCEEDED")
        assert why.facts == {"quota": "project.batch_items_per_day", "limit": "5"}
        await create(service, items[:2])


@pytest.mark.parametrize("key", ["", "another"])
async def test_a_request_that_was_forgotten_is_charged_when_it_makes_another_batch(
    database: Database, key: str
) -> None:
    url = database("inference")
    async with served(database, DATABASE_URL=url, batch_workers=0) as ((service,), _, banker):
        await banker.limit(PROJECT_SUBJECT, batch_items_per_day=5)
        items = [chat_item() for _ in range(2)]
        made = await create(service, items, request_id="again")
        connection = await asyncpg.connect(database.system("inference"))
        await connection.execute("UPDATE batch_requests SET create_time = now() - interval '25 hours'")
        await connection.close()
        claims = {"api_key": key} if key else None
        another = (await creating(service, parts(items, request_id="again"), claims=claims)).batch
        assert another.batch_id != made.batch_id
        assert (await banker.used()).batch_item_count == 4


async def test_a_request_that_comes_again_is_answered_when_the_budget_is_spent(database: Database) -> None:
    url = database("inference")
    async with served(database, DATABASE_URL=url, batch_workers=0) as ((service,), _, banker):
        await banker.limit(PROJECT_SUBJECT, batch_items_per_day=2)
        items = [chat_item() for _ in range(2)]
        made = await create(service, items, request_id="again")
        assert (await create(service, items, request_id="again")).batch_id == made.batch_id


async def test_who_goes_away_when_the_batch_is_stored_pays_for_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, genuine = asyncio.Event(), PostgresBatches.create

    async def slow(self: PostgresBatches, new: NewBatch) -> Record:
        await genuine(self, new)
        stored.set()
        return await asyncio.Future()  # The answer is on its way.

    monkeypatch.setattr(PostgresBatches, "create", slow)
    url = database("inference")
    async with served(database, DATABASE_URL=url, batch_workers=0) as ((service,), _, banker):
        await banker.limit(PROJECT_SUBJECT, batch_items_per_day=5)
        call = creating(service, parts([chat_item()]))
        async with asyncio.timeout(WITHIN_S):
            await stored.wait()
            call.cancel()
            while (await banker.used()).batch_item_count != 1:
                await asyncio.sleep(0.02)


async def test_items_of_batches_are_charged_for_what_they_use(database: Database) -> None:
    async with served(database, DATABASE_URL=database("inference")) as ((service,), _, banker):
        await create(service, [chat_item(options=SHORT) for _ in range(3)])
        async with asyncio.timeout(WITHIN_S):
            while (await banker.used()).token_count < 6:  # Two each.
                await asyncio.sleep(0.05)


async def test_while_auth_is_away_requests_are_served_and_charged_later(database: Database) -> None:
    async with served(database) as ((service,), _, banker):
        await banker.limit(PROJECT_SUBJECT, tokens_per_day=100_000)
        spent = await answered(service)
        await banker.stop()
        for _ in range(30):
            spent += await answered(service)
        await banker.start()
        await until_told(banker, spent)


async def test_closed_refuses_whose_slice_is_spent_while_auth_is_away(database: Database) -> None:
    async with served(database, quotas_when_auth_away="closed") as ((service,), _, banker):
        await banker.limit(PROJECT_SUBJECT, tokens_per_day=100_000)
        spent = await answered(service)
        await banker.stop()
        why, more = await until_refused(service)
        assert (why.code, why.reason) == (grpc.StatusCode.UNAVAILABLE, "QUOTA_UNAVAILABLE")
        assert why.retry_after_ms is not None
        await banker.start()
        await until_told(banker, spent + more)
        assert await answered(service)
