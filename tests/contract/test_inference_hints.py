"""Hints in a real Redis, and in one that is away, silent, or holds something else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from services.inference.adapters.hints import KEPT_S, RedisHints
from services.inference.core.estimates import Estimates
from services.inference.core.usage import Usage
from tests.fakes.severable import Severable
from tests.service.auth_app import port_of

KEY = "hints"
TIMEOUT_S = 1.0  # For what should work.
SHORT_S = 0.05  # For what should not.


@pytest.fixture
async def hints(redis_url: str) -> AsyncIterator[RedisHints]:
    async with RedisHints.connect(redis_url, key=KEY, timeout_s=TIMEOUT_S, bytes_max=1000) as made:
        yield made


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as made:
        yield made


@asynccontextmanager
async def silence() -> AsyncIterator[int]:
    """A server that takes connections and says nothing; its port."""
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


async def test_what_is_saved_is_loaded(hints: RedisHints) -> None:
    assert await hints.load() is None
    for document in ({"a": [1, 2.5, "é", None], "b": {}}, {}):
        assert await hints.save(document)
        assert await hints.load() == document
    assert hints.miss_count == 0


async def test_estimates_outlive_their_process(hints: RedisHints) -> None:
    before, after = Estimates(), Estimates()
    usage = Usage(prompt_token_count=100, prompt_s=0.3, output_token_count=7, output_s=0.11)
    before.learn_work("tiny:latest", "gpu", "a", usage=usage, reused_token_count=0, batch=1.3)
    assert await hints.save(before.export())
    loaded = await hints.load()
    assert loaded is not None
    after.restore(loaded)
    assert after.export() == before.export()
    assert after.known("tiny:latest")


async def test_what_is_saved_may_be_evicted(hints: RedisHints, client: Redis) -> None:
    assert await hints.save({})
    assert 0 < await client.ttl(KEY) <= KEPT_S


async def test_too_much_is_not_saved_and_not_read(hints: RedisHints, client: Redis) -> None:
    assert await hints.save({"a": "x" * 992})  # 1000 bytes.
    assert not await hints.save({"a": "x" * 993})
    assert await hints.load() == {"a": "x" * 992}
    assert hints.miss_count == 1
    await client.set(KEY, b'{"a":"' + b"x" * 993 + b'"}')
    assert await hints.load() is None
    assert hints.miss_count == 2


@pytest.mark.parametrize("raw", [b"[]", b"{", b"\xff", b'{"a":' + b"[" * 900, b"null", b'{"a":NaN}'])
async def test_nonsense_is_a_miss(hints: RedisHints, client: Redis, raw: bytes) -> None:
    await client.set(KEY, raw)
    with capture_logs() as logged:
        assert await hints.load() is None
    assert hints.miss_count == 1
    (line,) = logged
    assert line["event"] == "hints_missed"
    assert set(line) == {"event", "log_level", "did", "cause"}


async def test_deep_nonsense_is_a_miss(redis_url: str, client: Redis) -> None:
    await client.set(KEY, b'{"a":' + b"[" * 100_000)
    async with RedisHints.connect(redis_url, key=KEY, timeout_s=TIMEOUT_S) as hints:
        assert await hints.load() is None
        assert hints.miss_count == 1


async def test_another_type_is_a_miss(hints: RedisHints, client: Redis) -> None:
    await client.hset(KEY, "a", "b")
    assert await hints.load() is None
    assert hints.miss_count == 1
    assert await hints.save({"a": 1})  # And is replaced.
    assert await hints.load() == {"a": 1}


async def test_a_full_redis_is_a_miss(hints: RedisHints, client: Redis) -> None:
    await client.config_set("maxmemory", "1")
    try:
        assert not await hints.save({"a": 1})
    finally:
        await client.config_set("maxmemory", "256mb")
    assert hints.miss_count == 1


async def test_a_wrong_password_is_a_miss(redis_url: str) -> None:
    url = f"redis://:wrong@127.0.0.1:{port_of(redis_url)}/0"
    with capture_logs() as logged:
        async with RedisHints.connect(url, key=KEY, timeout_s=TIMEOUT_S) as hints:
            assert await hints.load() is None
    assert "wrong" not in str(logged)


async def test_a_redis_that_is_away_is_a_miss_until_it_is_back(redis_url: str) -> None:
    async with Severable.to(port_of(redis_url)) as cable:
        url = redis_url.replace(f":{port_of(redis_url)}", f":{cable.port}")
        async with RedisHints.connect(url, key=KEY, timeout_s=TIMEOUT_S) as hints:
            assert await hints.save({"a": 1})
            await cable.cut()
            assert await hints.load() is None
            assert not await hints.save({"a": 2})
            assert hints.miss_count == 2
            await cable.mend()
            assert await hints.load() == {"a": 1}
            assert hints.miss_count == 2


async def test_a_silent_redis_is_a_miss_in_time() -> None:
    """And leaves nothing behind that a third try would have to wait for."""
    async with silence() as port:
        url = f"redis://:secret@127.0.0.1:{port}/0"
        async with asyncio.timeout(20), RedisHints.connect(url, key=KEY, timeout_s=SHORT_S) as hints:
            for _ in range(3):
                assert await hints.load() is None
                assert not await hints.save({})
            assert hints.miss_count == 6


async def test_a_cancelled_caller_is_no_miss() -> None:
    async with silence() as port:
        url = f"redis://127.0.0.1:{port}/0"
        async with RedisHints.connect(url, key=KEY, timeout_s=TIMEOUT_S) as hints:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(SHORT_S):
                    await hints.load()
            assert hints.miss_count == 0
