"""The cache of answers in a real Redis: what is found, by whom, and for how long."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from services.inference import cache_keeper as keeping
from services.inference.core.asks import ToolCall
from services.inference.core.callers import CachePolicy, Wishes
from services.inference.errors import CacheUnavailable
from services.inference.ports import EndReason, Piece, TokenLogprob
from tests.contract.cache_rig import (
    DIGEST,
    KEY,
    OTHER_KEY,
    OUTCOME,
    PIECES,
    STARTED,
    Rig,
    generate,
    order,
    rig,
)
from tests.fakes.severable import Severable
from tests.service.auth_app import port_of


@asynccontextmanager
async def severable(url: str) -> AsyncIterator[tuple[Severable, Rig]]:
    """A cache, and its cable."""
    async with (
        Severable.to(port_of(url)) as cable,
        rig(url.replace(f":{port_of(url)}", f":{cable.port}")) as cache,
    ):
        yield cable, cache


ALWAYS, NEVER = Wishes(cache_policy=CachePolicy.ALWAYS), Wishes(cache_policy=CachePolicy.NEVER)


async def test_an_answer_is_given_again(redis_url: str) -> None:
    async with rig(redis_url) as one, rig(redis_url) as other:
        assert not await one.ask()
        for replica in (one, other):
            cached = (await replica.find()).cached
            assert cached is not None
            assert (cached.started, cached.outcome) == (STARTED, OUTCOME)
            assert tuple(cached.pieces()) == PIECES
            assert cached.whole == Piece(text="hello, wörld", thinking="hm", token_count=3)
        assert one.count("lookups", operation="chat", result="miss") == 1
        assert one.count("lookups", operation="chat", result="hit") == 1
        assert one.count("kept", operation="chat") == 1


@pytest.mark.parametrize(
    "other",
    [
        {"what": order("hello!")},
        {"what": replace(order(), options={"num_predict": 101})},
        {"what": order(model="alias:latest")},
        {"what": generate("hello")},
        {"tenant": "org-2"},
        {"digest": "sha256:2"},
        {"wishes": Wishes(by_token=True)},
    ],
    ids=str,
)
async def test_another_request_is_another(redis_url: str, other: dict[str, object]) -> None:
    async with rig(redis_url) as cache:
        assert not await cache.ask()
        assert not await cache.ask(**other)  # type: ignore[arg-type]
        assert await cache.ask()
        assert await cache.ask(**other)  # type: ignore[arg-type]


async def test_what_may_not_be_cached_is_not_looked_up(redis_url: str) -> None:
    async with rig(redis_url) as cache:
        warm = order(temperature=0.7)
        for what, wishes, digest in (
            (warm, Wishes(), DIGEST),
            (order(), NEVER, DIGEST),
            (order(), Wishes(), ""),  # Nobody knows the weights.
        ):
            lookup = await cache.find(what, wishes=wishes, digest=digest)
            assert (lookup.cached, lookup.keeping) == (None, None)
        assert cache.count("lookups", operation="chat", result="bypass") == 3
        assert not await cache.ask(warm, wishes=ALWAYS)
        assert await cache.ask(warm, wishes=ALWAYS)


@pytest.mark.parametrize(
    ("pieces", "started", "reason"),
    [
        (PIECES, STARTED, EndReason.LENGTH),
        (PIECES, replace(STARTED, model_digest="sha256:2"), EndReason.STOP),
        (
            (*PIECES, Piece(tool_calls=(ToolCall(name="t", arguments_json="{}"),))),
            STARTED,
            EndReason.STOP,
        ),
        ((Piece(text="a", logprobs=(TokenLogprob("a", 0.0, b"a"),)), *PIECES), STARTED, EndReason.STOP),
        ((Piece(text="x" * 10_000), *PIECES), STARTED, EndReason.STOP),
        ((Piece(text="x"),) * 200, STARTED, EndReason.STOP),  # In pieces, it takes more of a reader's buffer.
    ],
    ids=["length", "moved tag", "tool call", "logprobs", "large", "many"],
)
async def test_some_answers_are_not_kept(
    redis_url: str, pieces: tuple[Piece, ...], started: object, reason: EndReason
) -> None:
    async with rig(redis_url) as cache:
        lookup = await cache.find()
        assert lookup.keeping is not None
        for piece in pieces:
            lookup.keeping.write(piece)
        lookup.keeping.finish(started, replace(OUTCOME, reason=reason))  # type: ignore[arg-type]
        await cache.kept()
        assert await cache.value_keys() == []
        assert not await cache.ask()


async def test_an_answer_without_an_end_is_not_kept(redis_url: str) -> None:
    async with rig(redis_url) as cache:
        lookup = await cache.find()
        assert lookup.keeping is not None
        lookup.keeping.write(PIECES[0])
        del lookup
        await cache.kept()
        assert not await cache.ask()


async def test_answers_are_kept_for_a_time(redis_url: str) -> None:
    async with rig(redis_url, kept_s=0.2) as cache:
        await cache.ask()
        (key,) = await cache.value_keys()
        assert 0 < await cache.redis.pttl(key) <= 200
        async with asyncio.timeout(20):
            while await cache.redis.exists(key):
                await asyncio.sleep(0.01)
        assert not await cache.ask()


# Purges


@pytest.mark.parametrize("model", [None, "tiny:latest"])
async def test_a_purge_is_seen_by_every_replica_at_once(redis_url: str, model: str | None) -> None:
    async with rig(redis_url) as one, rig(redis_url) as other:
        await one.ask()
        await one.ask(tenant="org-2")
        assert await other.ask()
        await one.cache.purge("org-1", model)
        assert not await other.ask()
        assert await one.ask(tenant="org-2")
        assert await one.ask()  # It was kept anew.


async def test_a_purge_of_one_model_leaves_the_others(redis_url: str) -> None:
    async with rig(redis_url) as cache:
        await cache.ask()
        await cache.cache.purge("org-1", "other:latest")
        assert await cache.ask()


async def test_an_answer_that_was_begun_before_a_purge_is_not_kept(redis_url: str) -> None:
    async with rig(redis_url) as cache:
        for known in (False, True):  # Whether anything was kept for the tenant before.
            lookup = await cache.find()
            assert lookup.keeping is not None
            await cache.cache.purge("org-1", None)
            for piece in PIECES:
                lookup.keeping.write(piece)
            lookup.keeping.finish(STARTED, OUTCOME)
            await cache.kept()
            assert (await cache.find()).cached is None, known
            assert not await cache.ask(order("another"))


async def test_what_was_purged_does_not_come_back_with_a_loss(redis_url: str) -> None:
    """Not even if only the purge is lost, as in a Redis that evicts whatever it likes."""
    async with rig(redis_url) as cache:
        await cache.ask()
        await cache.cache.purge("org-1", None)
        for key in await cache.redis.keys("ollamesh:cache:e:*"):
            await cache.redis.delete(key)
        assert (await cache.find()).cached is None
        assert not await cache.ask(order("another"))  # Sets the tokens anew.
        assert (await cache.find()).cached is None


async def test_a_purge_that_did_not_happen_is_told(redis_url: str) -> None:
    async with severable(redis_url) as (cable, cache):
        await cache.ask()
        await cable.cut()
        with pytest.raises(CacheUnavailable):
            await cache.cache.purge("org-1", None)
        await cable.mend()
        assert await cache.ask()


# What is in Redis


async def test_redis_holds_no_word_of_it(redis_url: str) -> None:
    async with rig(redis_url) as cache:
        await cache.ask(order("a secret question"))
        everything = b""
        for key in await cache.keys("*"):
            everything += key + await cache.value(key)
            assert await cache.redis.ttl(key) > 0
    for word in (b"secret", b"org-1", b"tiny", b"hello", b"gpu", b"sha256"):
        assert word not in everything


async def forge(cache: Rig, how: str) -> None:
    """Have something else stand where the answer to "hello" does."""
    (key,) = await cache.value_keys()
    value = await cache.value(key)
    match how:
        case "swapped":
            await cache.ask(order("another"))
            (other,) = set(await cache.value_keys()) - {key}
            value = await cache.value(other)
        case "of another tenant":
            await cache.ask(tenant="org-2")
            (other,) = set(await cache.value_keys()) - {key}
            value = await cache.value(other)
        case "changed":
            value = value[:-1] + bytes([value[-1] ^ 1])
        case "cut":
            value = value[:20]
        case "nothing":
            value = b""
    await cache.redis.set(key, value)


@pytest.mark.parametrize("how", ["swapped", "of another tenant", "changed", "cut", "nothing"])
async def test_what_is_not_what_was_kept_is_a_miss_and_an_alert(redis_url: str, how: str) -> None:
    async with rig(redis_url) as cache:
        await cache.ask()
        (key,) = await cache.value_keys()
        await forge(cache, how)
        with capture_logs() as logged:
            assert (await cache.find()).cached is None
        assert cache.count("alerts") == 1
        assert logged == [{"event": "cache_value_refused", "log_level": "error", "count": 1}]
        assert not await cache.redis.exists(key)
        assert not await cache.ask()
        assert await cache.ask()
        assert cache.count("alerts") == 1


async def test_keys_can_be_changed(redis_url: str) -> None:
    async with rig(redis_url) as old, rig(redis_url, keys=(OTHER_KEY, KEY)) as both:
        await old.ask()
        assert await both.ask()
        async with rig(redis_url, secret="t" * 32) as elsewhere:
            assert not await elsewhere.ask()


# What waits to be kept


async def test_what_cannot_be_kept_up_with_is_dropped(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "WAITING_MAX", 2)
    async with rig(redis_url) as cache:
        for number in range(5):
            lookup = await cache.find(order(str(number)))
            assert lookup.keeping is not None
            lookup.keeping.write(PIECES[1])
            lookup.keeping.finish(STARTED, OUTCOME)
        assert cache.count("dropped", operation="chat", reason="full") == 3
        await cache.kept()
        assert len(await cache.value_keys()) <= 2
        assert not await cache.ask(order("5"))
        assert await cache.ask(order("5"))


async def test_what_waits_is_bounded_in_bytes(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "WAITING_BYTES_MAX", 1000)
    async with rig(redis_url) as cache:
        for number in range(3):
            lookup = await cache.find(order(str(number)))
            assert lookup.keeping is not None
            lookup.keeping.write(Piece(text="x" * 400))
            lookup.keeping.finish(STARTED, OUTCOME)
        assert cache.count("dropped", operation="chat", reason="full") == 1


async def test_without_redis_everything_is_generated(redis_url: str) -> None:
    async with severable(redis_url) as (cable, cache):
        await cache.ask()
        lookup = await cache.find(order("another"))
        await cable.cut()
        assert lookup.keeping is not None
        lookup.keeping.finish(STARTED, OUTCOME)
        await cache.kept()
        assert cache.count("dropped", operation="chat", reason="away") == 1
        lookup = await cache.find()
        assert (lookup.cached, lookup.keeping) == (None, None)
        assert cache.count("lookups", operation="chat", result="error") == 1


async def test_what_comes_is_kept_while_it_runs(redis_url: str) -> None:
    async with rig(redis_url) as cache:
        running = asyncio.create_task(cache.keeper.run())
        try:
            for number in range(3):
                lookup = await cache.find(order(str(number)))
                assert lookup.keeping is not None
                lookup.keeping.finish(STARTED, OUTCOME)
                async with asyncio.timeout(20):
                    while not (await cache.find(order(str(number)))).cached:
                        await asyncio.sleep(0.005)
        finally:
            running.cancel()
