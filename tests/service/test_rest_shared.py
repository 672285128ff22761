"""What the gateway shares shows in REST too: answers from the cache, streams that are joined, vectors that are kept."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cryptography.fernet import Fernet

from tests.fakes.fake_ollama import FakeOllama
from tests.service.inference_app import WITHIN_S, asked
from tests.service.rest_app import Rest, next_line, one_fake

HELLO = [{"role": "user", "content": "hello big world"}]
SAME = {"model": "tiny", "messages": HELLO, "options": {"temperature": 0}}
SAME_V1 = {"model": "tiny", "messages": HELLO, "temperature": 0}


@asynccontextmanager
async def shared(redis_url: str) -> AsyncIterator[tuple[Rest, FakeOllama]]:
    settings = {
        "REDIS_URL": redis_url,
        "SECRET_KEY": secrets.token_hex(32),
        "ENCRYPTION_KEY": Fernet.generate_key().decode(),
    }
    async with one_fake(**settings) as found:
        yield found


async def until_source(rest: Rest, path: str, body: object, source: str) -> bytes:
    """Ask until the answer comes from there; return its body. What was made is kept a moment later."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            answer = await rest.post(path, body)
            if answer.headers["x-ollamesh-cache"] == source:
                return answer.body
            await asyncio.sleep(0.01)


async def test_the_same_again_comes_from_the_cache_whole_or_as_a_stream(redis_url: str) -> None:
    async with shared(redis_url) as (rest, fake):
        for path, body in (("/api/chat", SAME), ("/v1/chat/completions", {**SAME_V1, "stream": True})):
            first = await rest.post(path, body)
            assert first.headers["x-ollamesh-cache"] == "miss"
            again = await until_source(rest, path, body, "hit")
            asked_count = len(fake.asked("/api/chat"))
            assert await until_source(rest, path, body, "hit")
            assert len(fake.asked("/api/chat")) == asked_count
            assert b"hello big world" in again
        whole = await rest.post("/api/chat", {**SAME, "stream": False})
        assert (whole.headers["x-ollamesh-cache"], whole.json["message"]["content"]) == (
            "hit",
            "hello big world",
        )
        assert (whole.json["done_reason"], whole.json["eval_count"]) == ("stop", 3)


async def test_what_samples_is_not_looked_up(redis_url: str) -> None:
    async with shared(redis_url) as (rest, _):
        for _ in range(2):
            answer = await rest.post("/api/chat", {"model": "tiny", "messages": HELLO})
            assert answer.headers["x-ollamesh-cache"] == "bypass"


async def test_who_asks_the_same_meanwhile_joins(redis_url: str) -> None:
    async with shared(redis_url) as (rest, fake):
        gate = asyncio.Event()
        fake.script("hello", gate, " big", " world")
        first = rest.stack.http.post(f"{rest.url}/api/chat", json=SAME, headers=rest.bearer())
        async with first as running:
            assert await next_line(running)
            await asked(fake)
            joining = rest.stack.http.post(f"{rest.url}/api/chat", json=SAME, headers=rest.bearer())
            async with joining as joined:
                assert joined.headers["x-ollamesh-cache"] == "join"
                assert joined.headers["x-ollamesh-stream"] != running.headers["x-ollamesh-stream"]
                gate.set()
                assert b'"done":true' in await joined.read()
            assert b'"done":true' in await running.read()
        assert len(fake.asked("/api/chat")) == 1


async def test_vectors_are_kept(redis_url: str) -> None:
    async with shared(redis_url) as (rest, fake):
        body = {"model": "vectors", "input": ["a b", "c"]}
        first = await rest.post("/api/embed", body)
        assert first.headers["x-ollamesh-cache"] == "miss"
        await until_source(rest, "/api/embed", body, "hit")
        count = len(fake.asked("/api/embed"))
        again = await rest.post("/v1/embeddings", body)
        assert again.headers["x-ollamesh-cache"] in {"hit", "miss"}  # OpenAI's does not cut: another request.
        assert len(fake.asked("/api/embed")) <= count + 1
