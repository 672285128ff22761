"""Streams that replicas share: what a real Redis and the fake of it both keep, and what only Redis can do wrong."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from services.common.seals import Seals
from services.inference.adapters.redis_link import RedisLink
from services.inference.adapters.redis_streams import RedisStreams
from services.inference.streams.ports import Away, SharedLog, Sign, Writing, Written
from services.inference.streams.records import End, Frames, Head, Heir, Record
from tests.contract.cache_rig import KEY, OTHER_KEY
from tests.fakes.shared_log import Memory
from tests.stack import OwnRedis, own_redis

TIMEOUT_S = 2.0
TENANT, STREAM = "org-1", "stream-1"
HEAD = Head(owner="one", request=b"ask")
Open = Callable[[str], SharedLog]


@asynccontextmanager
async def link_to(url: str) -> AsyncIterator[RedisLink]:
    async with RedisLink.opened(url, timeout_s=TIMEOUT_S) as link:
        yield link


def streams(link: RedisLink, process_id: str, *, key: str = KEY) -> RedisStreams:
    return RedisStreams(link, Seals([key], purpose="streams"), process_id=process_id, kept_s=60)


@pytest.fixture(params=["redis", "memory"])
async def opened(request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    """What opens the same log for a process."""
    if request.param == "memory":
        yield Memory().of
        return
    async with link_to(request.getfixturevalue("redis_url")) as link:
        yield lambda process_id: streams(link, process_id)


@pytest.fixture
def own() -> Iterator[OwnRedis]:
    with own_redis() as server:
        yield server


def frames(first: int, *texts: bytes, owner: str = "one") -> Frames:
    return Frames(owner=owner, first=first, frames=list(texts))


def writing(*records: Record, last: int, head: Head | None = None, **more: int) -> Writing:
    return Writing(
        tenant=TENANT,
        stream_id=STREAM,
        head=head,
        records=records,
        first=more.get("first", 1),
        last=last,
        heir_count=more.get("heir_count", 0),
        heir_after=more.get("heir_after", 0),
        is_new=head is not None and not more.get("heir_count"),
    )


BEGUN = writing(frames(1, b"a", b"b"), last=2, head=HEAD)


async def found(log: SharedLog, *, after: str = "", owner: str = "one") -> list[Record]:
    return list((await log.news(TENANT, STREAM, after=after, owner=owner)).records)


async def test_what_is_written_is_read_from_where_one_was(opened: Open) -> None:
    log, other = opened("one"), opened("two")
    assert await log.head(TENANT, STREAM) is None
    assert await log.write([BEGUN]) == [Written.KEPT]
    assert await other.head(TENANT, STREAM) == HEAD
    news = await other.news(TENANT, STREAM, after="", owner="one")
    assert news.records == [frames(1, b"a", b"b")]
    end = End(owner="one", failed=True, reason="INSTANCE_LOST", facts={"a": "b"}, retry_after_s=1.5)
    assert await log.write([writing(frames(3, b"c"), end, last=3)]) == [Written.KEPT]
    assert await found(other, after=news.place) == [frames(3, b"c"), end]
    assert await found(other) == [frames(1, b"a", b"b"), frames(3, b"c"), end]


async def test_writing_twice_adds_nothing(opened: Open) -> None:
    log = opened("one")
    more = writing(frames(3, b"c"), End(owner="one"), last=3)
    for one in (BEGUN, BEGUN, more, more, BEGUN):
        assert await log.write([one]) == [Written.KEPT]
    assert await found(log) == [frames(1, b"a", b"b"), frames(3, b"c"), End(owner="one")]


async def test_a_former_owner_is_fenced_and_told_so(opened: Open) -> None:
    one, two = opened("one"), opened("two")
    await one.write([BEGUN])
    heir = writing(Heir(owner="two", after=2), last=2, head=Head(owner="two"), heir_count=1, heir_after=2)
    assert await two.write([heir]) == [Written.KEPT]
    # It has told more than its heir has yet, and did not know.
    late = writing(frames(3, *[b"x"] * 9), End(owner="one"), last=11)
    assert await one.write([late]) == [Written.FENCED]
    mine = writing(frames(3, b"c", owner="two"), last=3, heir_count=1, heir_after=2)
    assert await two.write([mine]) == [Written.KEPT]
    assert await found(two) == [
        frames(1, b"a", b"b"),
        Heir(owner="two", after=2),
        frames(3, b"c", owner="two"),
    ]
    assert await one.write([late, mine]) == [Written.FENCED, Written.KEPT]


async def test_there_is_one_heir(opened: Open) -> None:
    logs = [opened(name) for name in ("two", "three", "four")]
    became = await asyncio.gather(*(log.inherit(STREAM, owner="one") for log in logs))
    assert became.count(True) == 1
    assert [await log.inherit(STREAM, owner="one") for log in logs] == became, "whoever asks again"
    assert sum([await log.inherit(STREAM, owner="two") for log in logs]) == 1


async def test_what_is_not_there_any_more_is_to_be_written_again(opened: Open) -> None:
    log = opened("one")
    more = writing(frames(3, b"c"), last=3)
    assert await log.write([more]) == [Written.LOST]
    assert await found(log) == [], "no stream begins in the middle"
    whole = writing(frames(1, b"a", b"b", b"c"), last=3, head=HEAD)
    assert await log.write([whole]) == [Written.KEPT]
    assert await found(log) == [frames(1, b"a", b"b", b"c")]


async def test_what_was_forgotten_is_trimmed(opened: Open) -> None:
    log = opened("one")
    await log.write([BEGUN])
    await log.write([writing(frames(3, b"c", b"d"), last=4)])
    await log.write([writing(frames(5, b"e"), last=5, first=4)])
    assert await found(log) == [frames(3, b"c", b"d"), frames(5, b"e")], "in whole records"
    two = opened("two")
    heir = Heir(owner="two", after=5)
    await two.write(
        [writing(heir, frames(6, b"f", owner="two"), last=6, head=HEAD, first=4, heir_count=1, heir_after=5)]
    )
    assert await found(log) == [frames(3, b"c", b"d"), frames(5, b"e"), heir, frames(6, b"f", owner="two")]


async def test_one_of_many_answers_a_request(opened: Open) -> None:
    one, two = opened("one"), opened("two")
    assert {await one.claim(b"name", "a"), await two.claim(b"name", "b")} == {"a"}
    await two.release(b"name", "b")
    assert await two.claim(b"name", "b") == "a", "it was not its own"
    await one.release(b"name", "a")
    assert await two.claim(b"name", "b") == "b"


async def test_a_process_says_whether_it_lives(opened: Open) -> None:
    one, two = opened("one"), opened("two")

    async def sign() -> Sign:
        return (await two.news(TENANT, STREAM, after="", owner="one")).owner

    assert await sign() is Sign.NONE
    assert await one.alive() == []
    assert await sign() is Sign.ALIVE
    await one.farewell()
    assert await sign() is Sign.GONE


async def test_who_reads_is_known_and_may_have_it_cancelled(opened: Open) -> None:
    one, two = opened("one"), opened("two")
    assert not await one.is_followed(STREAM)
    await found(two)
    assert await one.is_followed(STREAM)
    await two.cancel(STREAM, owner="one")
    assert await two.alive() == []
    assert await one.alive() == [STREAM]
    assert await one.alive() == []


# What only Redis can do wrong.


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Any]:
    async with Redis.from_url(url) as redis:
        yield redis


async def until_taken(does: Callable[[], Awaitable[object]], redis: Any) -> None:
    await does()
    for key in await redis.keys("*"):
        assert await redis.pttl(key) > 0, key


async def test_no_key_is_without_an_end(redis_url: str) -> None:
    async with link_to(redis_url) as link, client(redis_url) as redis:
        one, two = streams(link, "one"), streams(link, "two")
        alias = Writing(
            tenant=TENANT,
            stream_id="alias",
            head=Head(owner="one", leader=STREAM),
            records=(),
            first=1,
            last=0,
            heir_count=0,
        )
        heir = Heir(owner="two", after=3)
        states: list[Callable[[], Awaitable[object]]] = [
            lambda: one.write([BEGUN, alias]),
            lambda: one.write([writing(frames(3, b"c"), last=3)]),
            lambda: found(two),
            lambda: one.claim(b"name", STREAM),
            lambda: two.claim(b"name", "another"),
            one.alive,
            lambda: two.cancel(STREAM, owner="one"),
            lambda: two.inherit(STREAM, owner="one"),
            lambda: two.write([writing(heir, last=3, head=HEAD, heir_count=1, heir_after=3)]),
            lambda: one.write([writing(frames(4, b"x"), last=4)]),
            lambda: two.write([writing(End(owner="two"), last=3, heir_count=1, heir_after=3)]),
            one.farewell,
            redis.flushall,
            lambda: one.write([writing(frames(5, b"c"), last=5)]),  # What it would add to is gone.
            lambda: one.write([BEGUN]),
        ]
        for state in states:
            await until_taken(state, redis)
        await one.write([writing(End(owner="one"), last=2)])
        ended = [key for key in await redis.keys("ollamesh:stream:*") if STREAM.encode() in key]
        assert ended
        left_ms = [await redis.pttl(key) for key in ended]
        assert max(left_ms) <= 60_000, "it is kept as long as was said"


async def test_what_is_written_again_and_again_lasts(redis_url: str) -> None:
    async with link_to(redis_url) as link, client(redis_url) as redis:
        one = streams(link, "one")
        await one.write([BEGUN])
        for key in await redis.keys("*"):
            await redis.pexpire(key, 10_000)
        await one.write([writing(frames(3, b"c"), last=3)])
        for key in await redis.keys("*"):
            assert await redis.pttl(key) > 60_000, "a stream may last longer than it was kept for"


async def test_a_head_that_was_evicted_alone_is_missed(redis_url: str) -> None:
    async with link_to(redis_url) as link, client(redis_url) as redis:
        one = streams(link, "one")
        await one.write([BEGUN])
        await redis.delete(f"ollamesh:stream:{STREAM}:head")
        assert await one.write([writing(frames(3, b"c"), last=3)]) == [Written.LOST]
        whole = writing(frames(1, b"a", b"b", b"c"), last=3, head=HEAD)
        assert await one.write([whole]) == [Written.KEPT]
        assert await one.head(TENANT, STREAM) == HEAD


async def test_nobody_else_can_read_or_write_it(redis_url: str) -> None:
    async with link_to(redis_url) as link, client(redis_url) as redis:
        one = streams(link, "one")
        await one.write([BEGUN])
        other_key = streams(link, "one", key=OTHER_KEY)
        for log, tenant in ((one, "org-2"), (other_key, TENANT)):
            assert await log.head(tenant, STREAM) is None
            assert not (await log.news(tenant, STREAM, after="", owner="one")).records
        everything = b"".join([await redis.dump(key) or b"" for key in await redis.keys("ollamesh:stream:*")])
        assert b"ask" not in everything


async def test_what_was_moved_or_tampered_with_is_not_believed(redis_url: str) -> None:
    async with link_to(redis_url) as link, client(redis_url) as redis:
        one = streams(link, "one")
        await one.write([BEGUN])
        key = f"ollamesh:stream:{STREAM}"
        ((_, fields),) = await redis.xrange(key)
        sealed = fields[b"r"]
        await redis.copy(f"{key}:head", "ollamesh:stream:stream-2:head")
        await redis.xadd("ollamesh:stream:stream-2", {"r": sealed})
        assert await one.head(TENANT, "stream-2") is None
        assert not (await one.news(TENANT, "stream-2", after="", owner="one")).records
        for data in (
            sealed[:-1] + bytes([sealed[-1] ^ 1]),
            b"",
            b"x" * 100,
            (await redis.get(f"{key}:head")),
        ):
            await redis.xadd(key, {"r": data})
        await redis.xadd(key, {"other": "field", "and": "more"})
        assert await found(one) == [frames(1, b"a", b"b")]


async def test_a_full_one_is_away_for_who_writes_and_still_gives(own: OwnRedis) -> None:
    async with link_to(own.url) as link:
        one = streams(link, "one")
        await one.write([BEGUN])
        own.configure("maxmemory-policy", "noeviction")
        own.configure("maxmemory", "1")
        more = writing(frames(3, b"c"), last=3)
        with pytest.raises(Away):
            await one.write([more])
        assert await one.head(TENANT, STREAM) == HEAD
        own.configure("maxmemory", "0")
        assert await one.write([more]) == [Written.KEPT]
        assert await found(one) == [frames(1, b"a", b"b"), frames(3, b"c")]


async def test_one_that_was_flushed_between_has_it_all_again(own: OwnRedis) -> None:
    async with link_to(own.url) as link:
        one = streams(link, "one")
        await one.write([BEGUN])
        own.flush()
        assert await one.write([writing(frames(3, b"c"), last=3)]) == [Written.LOST]
        await one.write([writing(frames(1, b"a", b"b", b"c"), last=3, head=HEAD)])
        assert await found(one) == [frames(1, b"a", b"b", b"c")]
