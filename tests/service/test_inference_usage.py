"""What callers are told that they used, compared with what they saw; and what survives the service's end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import grpc
import psutil
import pytest
from cryptography.fernet import Fernet
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from ollamesh.inference.v1 import completion_pb2 as completions
from ollamesh.inference.v1 import inference_service_pb2 as pb

from tests.fakes.fake_ollama import Cut, FakeOllama, Hang
from tests.service.inference_app import (
    TINY,
    WITHIN_S,
    Service,
    events_of,
    one_instance,
    preload,
    refused,
    serving,
    until_event,
)
from tests.service.inference_processes import program
from tests.stack import Database

DAY_S = 86_400
DIMENSIONS = (
    pb.USAGE_DIMENSION_PROJECT,
    pb.USAGE_DIMENSION_USER,
    pb.USAGE_DIMENSION_MODEL,
    pb.USAGE_DIMENSION_DAY,
)


def since(start_s: float = -DAY_S, *, end_s: float | None = DAY_S, group_by: Any = ()) -> pb.GetUsageRequest:
    """Times are relative to now."""
    now = Timestamp()
    now.GetCurrentTime()
    end = None if end_s is None else Timestamp(seconds=now.seconds + int(end_s))
    return pb.GetUsageRequest(
        start_time=Timestamp(seconds=now.seconds + int(start_s)), end_time=end, group_by=group_by
    )


async def used(service: Service, group_by: Any = (), **who: Any) -> list[pb.UsageRow]:
    response = await service.call("GetUsage", since(group_by=group_by), **who)
    return list(response.rows)


async def until_used(service: Service, request_count: int, **who: Any) -> pb.UsageRow:
    """Return the total, once so many requests are in it."""
    async with asyncio.timeout(WITHIN_S):
        while (total := (await used(service, **who))[0]).request_count < request_count:
            await asyncio.sleep(0.02)
    assert total.request_count == request_count
    return total


@asynccontextmanager
async def accounted(database: Database, **settings: object) -> AsyncIterator[tuple[Service, FakeOllama]]:
    async with one_instance(DATABASE_URL=database("inference"), **settings) as (service, fake):
        yield service, fake


async def test_whoever_asked_for_an_answer_used_what_it_says(database: Database) -> None:
    async with accounted(database) as (service, _):
        answers = [(await events_of(service.chat(f"question {n}")))[-1].finished for n in range(3)]
        request = completions.GenerateRequest(model="tiny", prompt="once")
        answers.append((await events_of(service.call("Generate", request)))[-1].finished)
        embedded = await service.call("Embed", pb.EmbedRequest(model="tiny", input=["a", "b"]))
        total = await until_used(service, 5)
        read = [answer.usage.prompt_token_count for answer in answers]
        assert total.prompt_token_count == sum(read) + embedded.usage.prompt_token_count
        assert total.output_token_count == sum(answer.usage.output_token_count for answer in answers)
        assert total.gpu_time.ToNanoseconds() > 0
        assert (total.cached_count, total.joined_count, total.cancelled_count) == (0, 0, 0)
        (row,) = await used(service, DIMENSIONS)
        assert (row.project, row.user_id, row.model) == ("project-1", "user-1", "tiny:latest")
        assert row.day.seconds % DAY_S == 0
        (total.project, total.user_id, total.model) = (row.project, row.user_id, row.model)
        total.day.CopyFrom(row.day)
        assert row == total


async def test_who_leaves_is_charged_for_what_was_done(database: Database) -> None:
    async with accounted(database, instance_slots=1) as (service, fake):
        fake.script("one ", "two ", Hang())
        answering = service.chat()
        await until_event(answering, "delta")
        waiting = service.chat()
        await until_event(waiting, "queued")
        waiting.cancel()
        total = await until_used(service, 1)
        assert (total.cancelled_count, total.output_token_count) == (1, 0)
        assert total.gpu_time.ToNanoseconds() == 0
        assert total.queue_time.ToNanoseconds() > 0
        answering.cancel()
        total = await until_used(service, 2)
        assert total.cancelled_count == 2
        assert total.output_token_count >= 1
        assert total.gpu_time.ToNanoseconds() > 0


async def test_what_an_instance_failed_is_charged_and_what_was_refused_is_not(database: Database) -> None:
    async with accounted(database) as (service, fake):
        assert (await refused(service.chat(model="nothing"))).reason == "MODEL_NOT_FOUND"
        fake.script("one ", Cut())
        assert (await refused(service.chat())).reason == "INSTANCE_LOST"
        total = await until_used(service, 1)
        assert (total.output_token_count, total.cancelled_count) == (1, 0)
        await service.until_ready(1)
        assert (await events_of(service.chat()))[-1].HasField("finished")
        await until_used(service, 2)


async def test_who_got_no_place_in_the_queue_is_not_charged(database: Database) -> None:
    async with accounted(database, instance_slots=1, queue_max=1) as (service, fake):
        fake.script("one ", Hang())
        answering = service.chat()
        await until_event(answering, "delta")
        waiting = service.chat()
        await until_event(waiting, "queued")
        for temperature in (0.0, 1.0):  # One that others could join, and one of its own.
            options = completions.Options(temperature=temperature)
            assert (await refused(service.chat("another", options=options))).reason == "QUEUE_FULL"
        answering.cancel()
        waiting.cancel()
        await until_used(service, 2)
    assert len(await ledger(database)) == 2


async def test_who_joins_is_charged_tokens_and_no_gpu(database: Database) -> None:
    """And who asked first pays for both, though they leave."""
    same: dict[str, Any] = {"options": completions.Options(temperature=0), "text": "the same"}
    async with accounted(database) as (service, fake):
        gate = asyncio.Event()
        fake.script("one ", gate, "two ", "three")
        first = service.chat(**same)
        await until_event(first, "delta")
        second, third = service.chat(**same), service.chat(**same)
        await until_event(second, "delta")
        await until_event(third, "delta")
        first.cancel()
        third.cancel()
        left = await until_used(service, 1)
        assert (left.joined_count, left.cancelled_count, left.gpu_time.ToNanoseconds()) == (1, 1, 0)
        gate.set()
        answer = (await until_event(second, "finished")).finished
        total = await until_used(service, 3)
        assert (total.joined_count, total.cancelled_count) == (2, 1)
        assert total.output_token_count == 2 * answer.usage.output_token_count + left.output_token_count
        assert len(fake.asked("/api/chat")) == 1
        rows = await ledger(database)
        assert len(rows) == 3


async def test_who_joins_from_another_process_is_charged_the_same(database: Database, redis_url: str) -> None:
    secrets: dict[str, Any] = {
        "REDIS_URL": redis_url,
        "SECRET_KEY": "s" * 32,
        "ENCRYPTION_KEY": Fernet.generate_key().decode(),
    }
    same: dict[str, Any] = {"options": completions.Options(temperature=0), "text": "the same"}
    async with FakeOllama(TINY) as fake:
        await preload(fake, TINY)
        gate = asyncio.Event()
        fake.script("one ", gate, "two ", "three")
        async with program(fake.url, DATABASE_URL=database("inference"), **secrets) as running:
            one, other = running.services
            first = one.chat(**same)
            await until_event(first, "delta")
            second = other.chat(**same)
            await until_event(second, "delta")
            gate.set()
            answers = [await until_event(call, "finished") for call in (first, second)]
            total = await until_used(one, 2)
        assert len(fake.asked("/api/chat")) == 1
    tokens = [answer.finished.usage for answer in answers]
    assert tokens[0] == tokens[1]
    assert total.output_token_count == 2 * tokens[0].output_token_count
    assert total.prompt_token_count == 2 * tokens[0].prompt_token_count
    assert (total.joined_count, total.cancelled_count) == (1, 0)


async def test_what_the_cache_answers_is_charged_tokens_and_no_gpu(
    database: Database, redis_url: str
) -> None:
    secrets: dict[str, Any] = {
        "REDIS_URL": redis_url,
        "SECRET_KEY": "s" * 32,
        "ENCRYPTION_KEY": Fernet.generate_key().decode(),
    }
    same: dict[str, Any] = {"options": completions.Options(temperature=0), "text": "the same"}
    async with accounted(database, **secrets) as (service, fake):
        answers = [(await events_of(service.chat(**same)))[-1].finished.usage]
        before = await until_used(service, 1)
        async with asyncio.timeout(WITHIN_S):  # What is put into the cache is put there beside the stream.
            while (await used(service))[0].cached_count == 0:
                answers.append((await events_of(service.chat(**same)))[-1].finished.usage)
                await until_used(service, len(answers))
        total = await until_used(service, len(answers))
        made_count = len(fake.asked("/api/chat"))
        assert total.cached_count == len(answers) - made_count == 1
        assert total.output_token_count == len(answers) * answers[0].output_token_count
        if made_count == 1:
            assert total.gpu_time == before.gpu_time


async def test_a_stream_that_outlives_its_reader_is_charged_when_it_is_over(database: Database) -> None:
    async with accounted(database) as (service, fake):
        gate = asyncio.Event()
        fake.script("one ", gate, "two ", "three")
        call = service.chat(linger=Duration(seconds=60))
        opened = await until_event(call, "opened")
        await until_event(call, "delta")
        call.cancel()
        await service.fleet()
        assert (await used(service))[0].request_count == 0
        again = service.call(
            "ResumeStream", completions.ResumeStreamRequest(stream_id=opened.opened.stream_id)
        )
        await until_event(again, "opened")
        gate.set()
        answer = (await until_event(again, "finished")).finished
        total = await until_used(service, 1)
        assert (total.cancelled_count, total.output_token_count) == (0, answer.usage.output_token_count)
        assert await ledger(database) == {opened.opened.stream_id: answer.usage.output_token_count}


async def test_everybody_sees_their_own_and_an_admin_the_organisation(database: Database) -> None:
    async with accounted(database) as (service, _):
        people: list[dict[str, Any]] = [
            {"user_id": "user:ann", "org": "one", "project": "a"},
            {"user_id": "user:bob", "org": "one", "project": "b"},
            {"user_id": "user:ann", "org": "two", "project": "a"},  # Another one of the same name.
        ]
        message = completions.Message(role=completions.ROLE_USER, content="hello")
        request = completions.ChatRequest(model="tiny", messages=[message])
        for who in people:
            await events_of(service.call("Chat", request, **who))
        for who in people:
            await until_used(service, 1, **who)
        assert (await used(service, org="one", user_id="user:eve"))[0].request_count == 0
        assert await used(service, DIMENSIONS, org="one", user_id="user:eve") == []
        boss: dict[str, Any] = {"org": "one", "user_id": "user:boss", "role": "admin"}
        await until_used(service, 2, **boss)
        rows = await used(service, [pb.USAGE_DIMENSION_USER], **boss)
        assert [(row.user_id, row.project, row.request_count) for row in rows] == [
            ("user:ann", "", 1),
            ("user:bob", "", 1),
        ]
        rows = await used(service, [pb.USAGE_DIMENSION_PROJECT], **boss)
        assert [(row.project, row.user_id) for row in rows] == [("a", ""), ("b", "")]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.GetUsageRequest(), "start_time"),
        (since(0, end_s=0), "end_time"),
        (since(DAY_S, end_s=None), "end_time"),
        (since(-DAY_S, end_s=401 * DAY_S), "end_time"),
        (pb.GetUsageRequest(start_time=Timestamp(seconds=2**60)), "start_time"),
        (since(group_by=[pb.USAGE_DIMENSION_DAY, pb.USAGE_DIMENSION_DAY]), "group_by"),
        (since(group_by=[0]), "group_by[0]"),
    ],
)
async def test_a_question_must_make_sense(
    module_database: Database, request_: pb.GetUsageRequest, field: str
) -> None:
    async with accounted(module_database) as (service, _):
        answer = await refused(service.call("GetUsage", request_))
        assert (answer.code, answer.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        assert answer.fields == [field]


async def test_without_a_database_nothing_is_accounted_and_all_else_works() -> None:
    async with one_instance() as (service, _):
        await events_of(service.chat())
        answer = await refused(service.call("GetUsage", since()))
        assert (answer.code, answer.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED")
        assert answer.facts == {"needs": "DATABASE_URL"}


async def test_a_store_that_is_away_stops_no_stream(unused_tcp_port: int) -> None:
    dsn = f"postgresql://inference:hunter2@127.0.0.1:{unused_tcp_port}/none"
    async with one_instance(DATABASE_URL=dsn) as (service, _):
        for _ in range(3):
            assert (await events_of(service.chat()))[-1].HasField("finished")
        answer = await refused(service.call("GetUsage", since()))
        assert (answer.code, answer.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert answer.retry_after_ms
        assert "hunter2" not in str(answer)


@pytest.mark.timed
async def test_a_busy_store_refuses_within_a_second_and_stops_no_stream(database: Database) -> None:
    """R12, as callers see it: one connection, and whoever has it waits for a lock."""
    async with accounted(database, inference_connections_max=1) as (service, _):
        await events_of(service.chat())
        await until_used(service, 1)
        admin = await asyncpg.connect(database.admin_dsn)
        async with admin.transaction():
            await admin.execute("LOCK TABLE inference.usage_entries IN ACCESS EXCLUSIVE MODE")
            holds = service.call("GetUsage", since())
            while not await admin.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                await asyncio.sleep(0.005)
            loop = asyncio.get_running_loop()
            asked_s = loop.time()
            answer = await refused(service.call("GetUsage", since()))
            assert loop.time() - asked_s <= 1.0
            assert (answer.code, answer.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_BUSY")
            assert answer.retry_after_ms
            assert (await events_of(service.chat()))[-1].HasField("finished")
        assert (await holds).rows[0].request_count == 1
        await until_used(service, 2)
        await admin.close()


async def ledger(database: Database) -> dict[str, int]:
    """What was written: streams, and their output tokens."""
    connection = await asyncpg.connect(database.system("inference"))
    try:
        rows = await connection.fetch("SELECT stream_id, output_token_count FROM usage_entries")
    finally:
        await connection.close()
    found = {row["stream_id"]: row["output_token_count"] for row in rows}
    assert len(found) == len(rows), "each stream once"
    return found


async def told(service: Service) -> tuple[str, int]:
    """Ask; return the stream and the tokens that its caller was told of."""
    events = await events_of(service.chat())
    return events[0].opened.stream_id, events[-1].finished.usage.output_token_count


async def test_an_end_in_order_loses_nothing(database: Database) -> None:
    """Also of those that are cut off by it, or went on without a reader."""
    async with FakeOllama(TINY) as fake:
        await preload(fake, TINY)
        async with serving(fake.url, DATABASE_URL=database("inference"), grace_s=0) as service:
            seen = dict([await told(service) for _ in range(5)])
            fake.script("one ", Hang())
            fake.script("one ", Hang())
            cut_off, goes_on = service.chat(), service.chat(linger=Duration(seconds=60))
            for call in (cut_off, goes_on):
                await until_event(call, "delta")
            goes_on.cancel()
            service.stop.set()
            await refused(cut_off)
    found = await ledger(database)
    assert {stream: found[stream] for stream in seen} == seen
    assert len(found) == 7


@pytest.mark.parametrize("processes", [1, 2])
async def test_a_killed_service_loses_its_last_second_at_most(database: Database, processes: int) -> None:
    """Whichever of its processes carried the stream."""
    async with FakeOllama(TINY) as fake:
        await preload(fake, TINY)
        async with program(fake.url, processes=processes, DATABASE_URL=database("inference")) as running:
            loop = asyncio.get_running_loop()
            seen: dict[str, tuple[int, float]] = {}
            ends_s = loop.time() + 2.5
            while loop.time() < ends_s:
                for service in running.services:
                    stream, token_count = await told(service)
                    seen[stream] = token_count, loop.time()
            workers = running.workers()
            killed_s = loop.time()
            running.head.kill()
            for worker in workers:
                with contextlib.suppress(psutil.NoSuchProcess):  # It goes with its head.
                    worker.kill()
            await running.head.communicate()
    found = await ledger(database)
    assert {stream: tokens for stream, (tokens, _) in seen.items() if stream in found} == found
    lost = [killed_s - ended_s for stream, (_, ended_s) in seen.items() if stream not in found]
    assert max(lost, default=0.0) <= 1.0
    assert len(found) > 10


async def test_a_terminated_program_loses_nothing(database: Database) -> None:
    async with FakeOllama(TINY) as fake:
        await preload(fake, TINY)
        async with program(fake.url, DATABASE_URL=database("inference")) as running:
            seen = dict([await told(service) for service in running.services for _ in range(5)])
            running.head.terminate()
            await asyncio.wait_for(running.head.communicate(), WITHIN_S)
    assert await ledger(database) == seen
