"""A stream that another process went on with is that process's: to read, to cancel, and to no one else's harm."""

import asyncio

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from ollamesh.inference.v1 import completion_pb2 as pb

from tests.fakes.fake_ollama import FakeOllama
from tests.service.inference_app import TINY, Call, next_event, preload, refusal, until
from tests.service.inference_processes import Program, program
from tests.service.streams_app import (
    SECRETS,
    STEADY,
    cancel,
    event_of,
    failure_of,
    frames_of,
    resume,
    text_of,
)

WORDS = [f" w{number}" for number in range(12)]
WRITTEN_WITHIN_S = 1.0  # It is written every 0.2 s.


async def begun(running: Program) -> tuple[Call, list[pb.CompletionEvent]]:
    """A stream at the first worker, and its first events, which are written."""
    call = running.services[0].chat(options=STEADY, delta_per_token=True, linger=Duration(seconds=60))
    events = [await next_event(call) for _ in range(7)]  # Opened, Started and five deltas.
    await asyncio.sleep(WRITTEN_WITHIN_S)
    return call, events


def texts(frames: list[bytes]) -> str:
    return text_of([pb.ChatResponse.FromString(frame).event for frame in frames])


async def test_it_is_read_from_its_beginning_anywhere_whatever_its_first_owner_still_says(
    redis_url: str,
) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    async with FakeOllama(TINY, parallel=64) as fake:
        await preload(fake, TINY)
        fake.script(*WORDS[:5], first, *WORDS[5:])
        fake.script(*WORDS[:5], second, *WORDS[5:])
        async with program(fake.url, processes=3, REDIS_URL=redis_url, **SECRETS) as running:
            await running.until_ready()
            _, heir, third = running.services
            call, events = await begun(running)
            stream_id = events[0].opened.stream_id
            owner = running.workers()[0]
            owner.suspend()
            try:
                back = resume(heir, stream_id, after=7)
                await until(lambda: len(fake.asked("/api/chat")) == 2)
                await asyncio.sleep(WRITTEN_WITHIN_S)  # That it was taken over, too.
                first.set()
            finally:
                owner.resume()
            rest = [*events, *await read_to_end(call)]
            assert text_of(rest) == "".join(WORDS), "who reads at its first owner's sees no difference"
            await asyncio.sleep(WRITTEN_WITHIN_S)
            second.set()
            await frames_of(back)
            whole = await frames_of(resume(third, stream_id))
            assert texts(whole) == "".join(WORDS)
            assert whole == await frames_of(resume(heir, stream_id))


async def read_to_end(call: Call) -> list[pb.CompletionEvent]:
    return [pb.ChatResponse.FromString(frame).event for frame in await frames_of(call)]


async def test_it_is_cancelled_from_anywhere(redis_url: str) -> None:
    gate = asyncio.Event()
    async with FakeOllama(TINY, parallel=64) as fake:
        await preload(fake, TINY)
        for _ in range(2):
            fake.script(*WORDS[:5], gate, *WORDS[5:])
        async with program(fake.url, processes=3, REDIS_URL=redis_url, **SECRETS) as running:
            await running.until_ready()
            _, heir, third = running.services
            call, events = await begun(running)
            stream_id = events[0].opened.stream_id
            running.workers()[0].kill()
            with pytest.raises(grpc.aio.AioRpcError):
                await call.read()
            back = resume(heir, stream_id, after=6)
            await event_of(back, "delta")
            await until(lambda: len(fake.asked("/api/chat")) == 2)
            await asyncio.sleep(WRITTEN_WITHIN_S)
            await cancel(third, stream_id)
            _, error = await failure_of(back)
            assert refusal(error).reason == "STREAM_CANCELLED"
