"""Who asks the same of a model that always answers the same gets the same generation, wherever they ask."""

import asyncio
import hashlib

import grpc
from google.protobuf.duration_pb2 import Duration
from ollamesh.inference.v1 import completion_pb2 as pb
from redis.asyncio import Redis

from services.common.grpc.client import held
from tests.fakes.fake_ollama import Hang
from tests.service.inference_app import (
    WITHIN_S,
    asked,
    events_of,
    left,
    one_instance,
    refusal,
    refused,
    until,
    until_event,
)
from tests.service.streams_app import STEADY, failure_of, fake, replicas, rest_of, resume, text_of

CALLERS = 100
LATE = [f" w{number}" for number in range(5)]


def digest(events: list[pb.CompletionEvent]) -> str:
    """Of what was said."""
    return hashlib.sha256(text_of(events).encode()).hexdigest()


async def test_many_who_ask_the_same_share_one_generation() -> None:
    gate = asyncio.Event()
    async with one_instance() as (service, one):
        one.script(*LATE, gate, *LATE)
        calls = [service.chat(options=STEADY) for _ in range(CALLERS)]
        reads = [asyncio.create_task(rest_of(call)) for call in calls]
        await asked(one)
        late = service.chat(options=STEADY)
        await until_event(late, "delta")  # What came before is there at once.
        gate.set()
        found = [await read for read in reads]
        assert len(one.asked("/api/chat")) == 1
        assert {digest(events) for events in found} == {
            hashlib.sha256("".join(LATE * 2).encode()).hexdigest()
        }
        assert [event.sequence for event in found[0]] == list(range(1, len(found[0]) + 1))
        names = {events[0].opened.stream_id for events in found}
        assert len(names) == CALLERS, "each has a stream of its own"
        sources = [event.started.source for events in found for event in events if event.HasField("started")]
        assert sources.count(pb.ANSWER_SOURCE_MODEL) == 1
        assert sources.count(pb.ANSWER_SOURCE_JOINED) == CALLERS - 1
        for events in found[:3]:  # And each can read it again.
            assert await events_of(resume(service, events[0].opened.stream_id)) == events


async def test_what_may_be_answered_otherwise_is_not_shared() -> None:
    gate = asyncio.Event()
    async with one_instance(instance_slots=16) as (service, one):
        tool = pb.Tool(name="clock", description="tells the time")
        unlike = [
            service.chat(options=STEADY),
            service.chat(options=STEADY, org="org-2"),
            service.chat("other", options=STEADY),
            service.chat(options=pb.Options(temperature=0, seed=1)),
            service.chat(options=STEADY, tools=[tool]),
            service.chat(options=STEADY, tools=[tool]),
            service.chat(options=STEADY, priority=pb.PRIORITY_INTERACTIVE),
            service.chat(),
            service.chat(),
        ]
        for _ in unlike:
            one.script("a", gate)
        await asked(one, len(unlike))
        gate.set()
        for call in unlike:
            assert text_of(await events_of(call)) == "a"


async def test_the_last_to_leave_ends_it() -> None:
    async with one_instance() as (service, one):
        one.script("a", Hang())
        calls = [service.chat(options=STEADY) for _ in range(3)]
        for call in calls:
            await until_event(call, "delta")
        recorded = await asked(one)
        for call in calls[:2]:
            call.cancel()
        await asyncio.sleep(0.2)
        assert not recorded.ended.is_set(), "somebody still reads it"
        calls[2].cancel()
        assert await left(recorded)
        await service.until_idle()


async def test_one_deadline_ends_no_other_stream() -> None:
    gate, slot = asyncio.Event(), asyncio.Event()
    async with one_instance(instance_slots=1, timeout_min_s=0) as (service, one):
        one.script("a", slot)
        holder = service.chat("holds the slot")
        await until_event(holder, "delta")
        one.script("b", gate, "c")
        first = service.chat(options=STEADY, timeout_s=0.5)
        await until_event(first, "queued")
        hasty = service.chat(options=STEADY, queue_timeout=Duration(nanos=100_000_000))
        patient = service.chat(options=STEADY)
        reading = asyncio.create_task(rest_of(patient))
        assert (await refused(hasty)).reason == "QUEUE_TIMEOUT"
        assert (await refused(first)).code == grpc.StatusCode.DEADLINE_EXCEEDED
        slot.set()
        await rest_of(holder)
        gate.set()
        events = await reading
        assert (text_of(events), events[-1].WhichOneof("event")) == ("bc", "finished")
        assert len(one.asked("/api/chat")) == 2


async def test_a_deadline_during_the_answer_ends_no_other_stream() -> None:
    gate = asyncio.Event()
    async with one_instance() as (service, one):
        one.script("a", gate, "b")
        first = service.chat(options=STEADY, timeout_s=1.0)
        await until_event(first, "delta")
        other = service.chat(options=STEADY)
        await until_event(other, "delta")
        assert (await refused(first)).code == grpc.StatusCode.DEADLINE_EXCEEDED
        gate.set()
        assert text_of(await rest_of(other)) == "b"


async def test_replicas_share_a_generation_too(redis_url: str) -> None:
    gate = asyncio.Event()
    one, other = fake(), fake()
    async with replicas(redis_url, one, other) as (here, there):
        for each in (one, other):
            each.script("a", gate, "b")
        calls = [service.chat(options=STEADY) for service in (here, there) for _ in range(5)]
        reads = [asyncio.create_task(rest_of(call)) for call in calls]
        await until(lambda: len(one.asked("/api/chat")) + len(other.asked("/api/chat")) >= 1)
        late = there.chat(options=STEADY), here.chat(options=STEADY)
        for call in late:
            await until_event(call, "delta")
        gate.set()
        found = [await read for read in reads]
        assert {text_of(events) for events in found} == {"ab"}
        assert len(one.asked("/api/chat")) + len(other.asked("/api/chat")) == 1
        for events in found:
            for service in (here, there):
                again = await events_of(resume(service, events[0].opened.stream_id))
                assert text_of(again) == "ab"
                assert again[0].opened.stream_id == events[0].opened.stream_id


async def test_the_maker_goes_on_for_readers_of_another_replica(redis_url: str) -> None:
    gate = asyncio.Event()
    one, other = fake(), fake()
    async with replicas(redis_url, one, other) as (here, there):
        one.script("a", gate, "b")
        with held(here.chat(options=STEADY)) as maker:
            await until_event(maker, "delta")
            follower = there.chat(options=STEADY)
            await until_event(follower, "delta")
        await asyncio.sleep(1.5)
        gate.set()
        events = await rest_of(follower)
        assert (text_of(events), events[-1].WhichOneof("event")) == ("b", "finished")
        assert not other.asked("/api/chat")


async def test_who_follows_a_maker_that_is_gone_goes_on_alone(redis_url: str) -> None:
    """An answer that is always the same goes on byte for byte; what was told is not told again."""
    gate = asyncio.Event()
    one, other = fake(), fake()
    async with replicas(redis_url, one, other) as (here, there):
        one.script(*LATE[:3], gate)
        other.script(*LATE)
        maker = here.chat(options=STEADY, delta_per_token=True)
        await until_event(maker, "delta")
        follower = there.chat(options=STEADY, delta_per_token=True)
        events = [await until_event(follower, "delta")]
        here.stop.set()
        events += await rest_of(follower)
        assert text_of(events) == "".join(LATE)
        assert [event.sequence for event in events] == list(
            range(events[0].sequence, events[-1].sequence + 1)
        )
        assert len(other.asked("/api/chat")) == 1


async def test_one_deadline_ends_no_stream_of_another_replica(redis_url: str) -> None:
    one, other = fake(), fake()
    async with replicas(redis_url, one, other, instance_slots=1, timeout_min_s=0) as (here, there):
        one.script("a", Hang())
        with held(here.chat("holds the slot")) as holder:
            await until_event(holder, "delta")
            hasty = here.chat(options=STEADY, queue_timeout=Duration(seconds=2))
            await until_event(hasty, "queued")
            other.script("b")
            patient = there.chat(options=STEADY)
            await until_event(patient, "queued")
            _, error = await failure_of(hasty)
            assert refusal(error).reason == "QUEUE_TIMEOUT"
            assert text_of(await rest_of(patient)) == "b"
        assert len(other.asked("/api/chat")) == 1


async def test_a_maker_that_left_no_trace_is_waited_for_once(redis_url: str) -> None:
    gate = asyncio.Event()
    one = fake()
    async with replicas(redis_url, one) as (here,), Redis.from_url(redis_url) as redis:
        one.script("a", gate)
        first = here.chat(options=STEADY, cache_policy=pb.CACHE_POLICY_NEVER)
        await until_event(first, "delta")
        (name,) = await redis.keys("ollamesh:join:*")
        gate.set()
        await rest_of(first)
        await redis.set(name, "a stream that nobody has")
        assert text_of(await rest_of(here.chat(options=STEADY, cache_policy=pb.CACHE_POLICY_NEVER)))
        await until_unclaimed(redis, name)


async def until_unclaimed(redis: Redis, name: bytes | str) -> None:
    """Return when nobody is said to answer the request."""
    async with asyncio.timeout(WITHIN_S):
        while await redis.exists(name):
            await asyncio.sleep(0.05)
