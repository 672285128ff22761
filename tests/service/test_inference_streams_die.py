"""A process that is killed takes no stream with it that can be told again."""

import asyncio
import time

import grpc
import grpc.aio
import pytest
from ollamesh.inference.v1 import completion_pb2 as pb

from tests.fakes.fake_ollama import FakeOllama
from tests.service.inference_app import TINY, next_event, preload, refusal
from tests.service.inference_processes import program
from tests.service.streams_app import SECRETS, STEADY, failure_of, rest_of, resume, text_of

WORDS = [f" w{number}" for number in range(12)]
RESUMED_WITHIN_S = 30.0  # Generous: the machine is shared. What is measured is printed by the benchmark.


@pytest.mark.parametrize("steady", [True, False])
@pytest.mark.timed
async def test_a_stream_outlives_the_process_that_makes_it(redis_url: str, *, steady: bool) -> None:
    gate = asyncio.Event()
    async with FakeOllama(TINY, parallel=64) as fake:
        await preload(fake, TINY)
        fake.script(*WORDS[:5], gate, *WORDS[5:])
        fake.script(*WORDS)
        async with program(fake.url, processes=2, REDIS_URL=redis_url, **SECRETS) as running:
            await running.until_ready()
            here, there = running.services
            call = here.chat(options=STEADY if steady else pb.Options(), delta_per_token=True)
            events: list[pb.CompletionEvent] = []
            while len(events) < 7:  # Opened, Started and five deltas.
                events.append(await next_event(call))
            stream_id = events[0].opened.stream_id
            await asyncio.sleep(1.0)  # It is written every 0.2 s.
            killed_at_s = time.monotonic()
            running.workers()[0].kill()
            with pytest.raises(grpc.aio.AioRpcError):
                await call.read()
            gate.set()
            back = resume(there, stream_id, after=events[-1].sequence)
            if steady:
                events += await rest_of(back)
                assert text_of(events) == "".join(WORDS)
                assert [event.sequence for event in events] == list(range(1, len(events) + 1))
            else:
                more, error = await failure_of(back)
                found = refusal(error)
                assert not more
                assert (found.code, found.reason) == (grpc.StatusCode.ABORTED, "INSTANCE_LOST")
                assert found.facts == {"stream_id": stream_id, "last_sequence": "7"}
            assert time.monotonic() - killed_at_s < RESUMED_WITHIN_S
            assert len(fake.asked("/api/chat")) == (2 if steady else 1)
