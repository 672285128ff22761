"""Streams are read again, from anywhere, by whoever opened them, and by nobody else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from ollamesh.inference.v1 import completion_pb2 as pb

from tests.fakes.fake_ollama import FakeOllama, Hang
from tests.service.inference_app import (
    TINY,
    WITHIN_S,
    Call,
    Refusal,
    Service,
    asked,
    events_of,
    left,
    next_event,
    one_instance,
    preload,
    refusal,
    refused,
    serving,
    until,
    until_event,
)
from tests.service.streams_app import (
    STEADY,
    cancel,
    event_of,
    failure_of,
    fake,
    frames_of,
    replicas,
    rest_of,
    resume,
    text_of,
)

WORDS = [f" w{number}" for number in range(20)]


async def test_a_finished_stream_is_read_again_from_any_event_at_any_replica(redis_url: str) -> None:
    async with replicas(redis_url, fake(), fake()) as (here, there):
        call = here.chat("a b c d e f", delta_per_token=True)
        whole = await frames_of(call)
        opened = pb.ChatResponse.FromString(whole[0]).event.opened
        assert opened.durability == pb.STREAM_DURABILITY_SHARED
        for service in (here, there):
            for after in range(len(whole) + 1):
                assert await frames_of(resume(service, opened.stream_id, after=after)) == whole[after:]


async def test_a_live_stream_is_read_along_at_any_replica(redis_url: str) -> None:
    gates = [asyncio.Event() for _ in range(3)]
    one = fake()
    async with replicas(redis_url, one, fake()) as (here, there):
        one.script("a", gates[0], "b", gates[1], "c", gates[2], "d")
        call = here.chat()
        opened = await next_event(call)
        await until_event(call, "delta")
        others = [resume(service, opened.opened.stream_id) for service in (here, there, there)]
        reads = [asyncio.create_task(frames_of(other)) for other in others]
        for gate in gates:
            gate.set()
            await asyncio.sleep(0.1)  # Anything may have arrived; what is read is the same.
        rest = await frames_of(call)
        found = [await read for read in reads]
        assert found[0] == found[1] == found[2]
        assert found[0][-len(rest) :] == rest


async def test_a_stream_is_its_openers_alone(redis_url: str) -> None:
    async with replicas(redis_url, fake(), fake()) as (here, there):
        stream_id = (await events_of(here.chat()))[0].opened.stream_id
        strangers: list[dict[str, Any]] = [
            {"org": "org-2"},
            {"user_id": "user-2"},
            {"user_id": "admin-1", "role": "admin"},
        ]
        for service in (here, there):
            for who in strangers:
                found = await refused(resume(service, stream_id, **who))
                assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND, "STREAM_NOT_FOUND")
                with pytest.raises(grpc.aio.AioRpcError) as failed:
                    await cancel(service, stream_id, **who)
                assert refusal(failed.value).reason == "STREAM_NOT_FOUND"
            for forged in ("x", stream_id[:-1] + "A", stream_id.swapcase(), "A" * 32, "é" * 32):
                assert (await refused(resume(service, forged))).reason == "STREAM_NOT_FOUND"


async def test_without_a_redis_a_stream_is_kept_where_it_was_made() -> None:
    async with one_instance() as (service, _):
        whole = await frames_of(service.chat("a b c"))
        opened = pb.ChatResponse.FromString(whole[0]).event.opened
        assert opened.durability == pb.STREAM_DURABILITY_GATEWAY
        assert await frames_of(resume(service, opened.stream_id, after=2)) == whole[2:]


async def test_what_is_kept_is_bounded() -> None:
    async with one_instance(streams_memory_bytes=4096, stream_write_every_s=0.01) as (service, _):
        first = (await events_of(service.chat("a")))[0].opened.stream_id
        for _ in range(20):
            await events_of(service.chat("word " * 200))
        async with asyncio.timeout(WITHIN_S):
            while (found := await ending(resume(service, first))) is None:
                await asyncio.sleep(0.01)
        assert (found.code, found.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STREAM_EXPIRED")


async def ending(call: Call) -> Refusal | None:
    """Read a stream; return how it failed, if it did."""
    try:
        await frames_of(call)
    except grpc.aio.AioRpcError as error:
        return refusal(error)
    return None


async def test_a_long_stream_keeps_its_end(redis_url: str) -> None:
    sizes = {"stream_bytes_max": 4096, "reader_buffer_bytes": 50_000}
    one = FakeOllama(TINY, token_s=0.001)
    one.script(*["x" * 1000] * 450)
    async with replicas(redis_url, one, fake(), **sizes) as (here, there):
        whole = await frames_of(here.chat(delta_per_token=True))
        stream_id = pb.ChatResponse.FromString(whole[0]).event.opened.stream_id
        for service in (here, there):
            assert (await refused(resume(service, stream_id, after=0))).reason == "STREAM_EXPIRED"
        after = len(whole) - 10
        await asyncio.sleep(0.5)  # By then it is kept by Redis alone, which changes nothing.
        for service in (here, there):
            assert await frames_of(resume(service, stream_id, after=after)) == whole[after:]


async def test_what_was_told_long_ago_is_nobodys_lag(redis_url: str) -> None:
    one = FakeOllama(TINY, token_s=0.001)
    one.script(*["x" * 1000] * 300)
    async with replicas(redis_url, one, fake(), reader_buffer_bytes=100_000) as (here, there):
        whole = await frames_of(here.chat(delta_per_token=True))
        stream_id = pb.ChatResponse.FromString(whole[0]).event.opened.stream_id
        assert await frames_of(resume(there, stream_id)) == whole


async def test_a_stream_that_lingers_is_there_for_who_comes_back(redis_url: str) -> None:
    gate = asyncio.Event()
    one = fake()
    async with replicas(redis_url, one, fake()) as (here, there):
        one.script("a", gate, "b")
        call = here.chat(linger=Duration(seconds=20))
        stream_id = (await next_event(call)).opened.stream_id
        await until_event(call, "delta")
        call.cancel()
        await asyncio.sleep(0.1)
        back = resume(there, stream_id)
        await event_of(back, "delta")
        gate.set()
        events = await rest_of(back)
        assert (text_of(events), events[-1].WhichOneof("event")) == ("b", "finished")


async def test_it_lingers_as_long_for_who_comes_back_to_another_replica(redis_url: str) -> None:
    gate = asyncio.Event()
    one = fake()
    async with replicas(redis_url, one, fake()) as (here, there):
        one.script("a", gate, "b")
        call = here.chat(linger=Duration(seconds=4))
        stream_id = (await next_event(call)).opened.stream_id
        await until_event(call, "delta")
        call.cancel()
        for _ in range(2):  # Each time it lingers from then on, wherever its reader left it.
            back = resume(there, stream_id)
            await event_of(back, "delta")
            back.cancel()
            await asyncio.sleep(3.0)
        gate.set()
        events = await rest_of(resume(there, stream_id))
        assert (text_of(events), events[-1].WhichOneof("event")) == ("ab", "finished")


async def test_a_stream_that_does_not_linger_ends_with_its_reader(redis_url: str) -> None:
    one = fake()
    async with replicas(redis_url, one) as (here,):
        one.script("a", Hang())
        call = here.chat()
        await until_event(call, "delta")
        call.cancel()
        assert await left(await asked(one))
        await here.until_idle()


async def test_who_lingers_too_long_is_given_up() -> None:
    async with one_instance() as (service, one):
        one.script("a", Hang())
        call = service.chat(linger=Duration(nanos=200_000_000))
        await until_event(call, "delta")
        call.cancel()
        assert await left(await asked(one))
        await service.until_idle()


async def test_a_stream_is_cancelled_for_all_its_readers_from_anywhere(redis_url: str) -> None:
    one = fake()
    async with replicas(redis_url, one, fake()) as (here, there):
        for canceller in (here, there):
            one.script("a", Hang())
            call = here.chat(linger=Duration(seconds=60))
            stream_id = (await next_event(call)).opened.stream_id
            await until_event(call, "delta")
            follower = resume(there, stream_id)
            await event_of(follower, "delta")
            await cancel(canceller, stream_id)
            for reader in (call, follower):
                found = await refused(reader)
                assert (found.code, found.reason) == (grpc.StatusCode.CANCELLED, "STREAM_CANCELLED")
                assert found.facts["stream_id"] == stream_id
            await here.until_idle()
            await cancel(canceller, stream_id)  # Idempotent.
        whole = await events_of(here.chat("a"))
        await cancel(here, whole[0].opened.stream_id)  # It has ended: nothing to do.
        assert await events_of(resume(here, whole[0].opened.stream_id)) == whole


async def test_a_stream_is_cancelled_that_was_only_just_opened_elsewhere(redis_url: str) -> None:
    one = fake()
    async with replicas(redis_url, one, fake(), stream_write_every_s=1) as (here, there):
        one.script("a", Hang())
        call = here.chat()
        stream_id = (await next_event(call)).opened.stream_id
        await cancel(there, stream_id)
        assert (await refused(call)).reason == "STREAM_CANCELLED"


async def test_the_same_request_id_is_the_same_stream(redis_url: str) -> None:
    one, other = fake(), fake()
    async with replicas(redis_url, one, other) as (here, there):
        gate = asyncio.Event()
        one.script("a", gate, "b")
        other.script("a", gate, "b")
        calls = [service.chat(request_id="r-1") for service in (here, there) for _ in range(10)]
        reads = [asyncio.create_task(frames_of(call)) for call in calls]
        await until(lambda: len(one.asked("/api/chat")) + len(other.asked("/api/chat")) >= 1)
        gate.set()
        found = [await read for read in reads]
        assert all(each == found[0] for each in found)
        assert len(one.asked("/api/chat")) + len(other.asked("/api/chat")) == 1
        for service in (here, there):
            again = await refused(service.chat("another body", request_id="r-1"))
            assert (again.code, again.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
        await frames_of(
            here.call(
                "Chat",
                pb.ChatRequest(
                    request_id="r-1", model="tiny", messages=[pb.Message(role=pb.ROLE_USER, content="mine")]
                ),
                user_id="user-2",
            )
        )  # Another caller's id is another request.


async def two_instances(gate: asyncio.Event) -> AsyncIterator[tuple[Service, FakeOllama, FakeOllama]]:
    """Both begin an answer and wait for `gate`; the first is the one that is asked."""
    async with FakeOllama(TINY) as one, FakeOllama(TINY) as other:
        for each in (one, other):
            await preload(each, TINY)
            each.script(*WORDS[:7], gate, *WORDS[7:])
        async with serving(one.url, other.url) as service:
            yield service, one, other


async def test_a_steady_answer_goes_on_at_another_instance_byte_for_byte() -> None:
    gate = asyncio.Event()
    async with asynccontextmanager(two_instances)(gate) as (service, one, other):
        call = service.chat(options=STEADY, delta_per_token=True)
        events = [await next_event(call) for _ in range(9)]
        broken = one if one.asked("/api/chat") else other
        broken.restart()
        gate.set()
        events += await rest_of(call)
        assert text_of(events) == "".join(WORDS)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert events[-1].finished.usage.output_token_count == sum(
            event.delta.token_count for event in events
        )
        assert len(one.asked("/api/chat")) == len(other.asked("/api/chat")) == 1


@pytest.mark.parametrize("told", ["differs", "ends early"])
async def test_an_answer_that_is_not_the_same_again_is_not_passed_off_as_it(told: str) -> None:
    gate = asyncio.Event()
    async with FakeOllama(TINY) as one, FakeOllama(TINY) as other:
        for each in (one, other):
            await preload(each, TINY)
        async with serving(one.url, other.url) as service:
            for each in (one, other):
                each.script(*WORDS[:7], gate)
            call = service.chat(options=STEADY)
            events = [await until_event(call, "delta")]
            broken, whole = (one, other) if one.asked("/api/chat") else (other, one)
            whole._backend.scripts.clear()
            whole.script(*(WORDS[:3] if told == "ends early" else [*WORDS[:3], " else", *WORDS[4:]]))
            broken.restart()
            more, error = await failure_of(call)
            found = refusal(error)
            assert (found.code, found.reason) == (grpc.StatusCode.ABORTED, "INSTANCE_LOST")
            assert found.facts["last_sequence"] == str((events + more)[-1].sequence)
            assert "".join(WORDS).startswith(text_of(events + more))


async def test_an_answer_that_is_sampled_is_never_begun_again() -> None:
    gate = asyncio.Event()
    async with asynccontextmanager(two_instances)(gate) as (service, one, other):
        call = service.chat()
        event = await until_event(call, "delta")
        (one if one.asked("/api/chat") else other).restart()
        more, error = await failure_of(call)
        assert refusal(error).reason == "INSTANCE_LOST"
        assert refusal(error).facts["last_sequence"] == str([event, *more][-1].sequence)
        assert len(one.asked("/api/chat")) + len(other.asked("/api/chat")) == 1
