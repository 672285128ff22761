"""A request whose stream was lost before anything of it was kept is answered when it is sent again, once."""

import asyncio
from typing import Any

import redis.asyncio

from tests.fakes.fake_ollama import FakeOllama, Hang
from tests.service.inference_app import TINY, next_event, preload
from tests.service.inference_processes import program
from tests.service.streams_app import SECRETS, rest_of, text_of

WORDS = [f" w{number}" for number in range(5)]
AGAIN = 5


async def forget(redis_url: str, stream_id: str) -> None:
    """Have nothing kept of a stream, as if its maker had been killed a moment sooner."""
    async with redis.asyncio.from_url(redis_url) as client:
        async for key in client.scan_iter(f"ollamesh:stream:{stream_id}*"):
            await client.delete(key)


async def test_a_request_outlives_a_stream_of_which_nothing_was_kept(redis_url: str) -> None:
    settings: dict[str, Any] = {"REDIS_URL": redis_url, "answer_cache": False, **SECRETS}
    async with FakeOllama(TINY, parallel=64) as fake:
        await preload(fake, TINY)
        fake.script(Hang())
        async with program(fake.url, processes=2, instance_slots=8, **settings) as running:
            here, there = running.services
            lost = await next_event(here.chat(request_id="r-1"))
            killed = running.workers()[0]
            killed.kill()
            await running.until_gone(killed)
            await forget(redis_url, lost.opened.stream_id)
            for _ in range(AGAIN):
                fake.script(*WORDS)
            calls = [there.chat(request_id="r-1") for _ in range(AGAIN)]
            found = await asyncio.gather(*(rest_of(call) for call in calls))
            names = {events[0].opened.stream_id for events in found}
            assert len(names) == 1, "all get the same stream"
            assert names != {lost.opened.stream_id}
            assert [text_of(events) for events in found] == ["".join(WORDS)] * AGAIN
            assert len(fake.asked("/api/chat")) <= 2
            again = await rest_of(there.chat(request_id="r-1"))
            assert again[0].opened.stream_id in names
