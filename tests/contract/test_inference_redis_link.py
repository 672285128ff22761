"""A link to a real Redis: to one that answers, and to one that refuses, hangs, is full or was flushed."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from deploy.local.ports import free_ports
from services.common.redis_metrics import RedisMetrics
from services.inference.adapters.redis_link import (
    CONNECTIONS_MAX,
    FAILURES_MAX,
    RedisAway,
    RedisLink,
)
from tests.fakes.severable import Severable
from tests.service.auth_app import port_of
from tests.stack import OwnRedis, own_redis

TIMEOUT_S = 2.0  # For what should work, on any machine.
SHORT_S = 0.05  # For what should not.
BACK_WITHIN_S = 5.0
WITHIN_S = 20.0


@pytest.fixture
def own() -> Iterator[OwnRedis]:
    with own_redis() as server:
        yield server


class Rig:
    """A link that runs, and what it told of itself."""

    def __init__(self, link: RedisLink, registry: CollectorRegistry) -> None:
        self.link, self._registry = link, registry
        self.told: list[bool] = []
        self._back = asyncio.Event()
        link.watch(self._hear)

    def _hear(self, up: bool) -> None:  # noqa: FBT001
        self.told.append(up)
        if up:
            self._back.set()

    @property
    def failures(self) -> dict[str, float]:
        """How often what came to nothing, by cause."""
        return {
            sample.labels["cause"]: sample.value
            for metric in self._registry.collect()
            for sample in metric.samples
            if sample.name == "ollamesh_redis_failures_total"
        }

    def measured(self, name: str, **labels: str) -> float | None:
        return self._registry.get_sample_value(f"ollamesh_redis_{name}", labels)

    async def back(self) -> None:
        await asyncio.wait_for(self._back.wait(), BACK_WITHIN_S)


@asynccontextmanager
async def linked(url: str, *, timeout_s: float = TIMEOUT_S) -> AsyncIterator[Rig]:
    registry = CollectorRegistry()
    async with RedisLink.opened(url, timeout_s=timeout_s, metrics=RedisMetrics(registry)) as link:
        rig = Rig(link, registry)
        running = asyncio.create_task(link.run())
        yield rig
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def away(link: RedisLink) -> None:
    """Ask in vain until nobody asks any more."""
    for _ in range(FAILURES_MAX):
        assert link.up
        with pytest.raises(RedisAway):
            await link.ask(("GET", "a"))
    assert not link.up


async def echoes(link: RedisLink, text: str) -> None:
    """Return when it answers again, which must be what was asked."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                assert await link.ask(("ECHO", text)) == [text.encode()]
            except RedisAway:
                await asyncio.sleep(SHORT_S)
            else:
                return


async def test_answers_come_in_order(redis_url: str) -> None:
    async with linked(redis_url) as rig:
        assert await rig.link.ask(("SET", "a", b"\0\xff"), ("GET", "a"), ("GET", "b"), ("INCR", "n")) == [
            b"OK",
            b"\0\xff",
            None,
            1,
        ]
        assert await rig.link.ask(("MGET", "a", "b")) == [[b"\0\xff", None]]
        assert await rig.link.ask(("SET", "a", "new", "NX", "GET")) == [b"\0\xff"]
        assert rig.link.up
        assert (rig.told, rig.failures) == ([], {})


async def test_what_is_refused_is_no_reason_to_stop_asking(redis_url: str) -> None:
    async with linked(redis_url) as rig:
        for _ in range(FAILURES_MAX + 1):
            with pytest.raises(RedisAway):
                await rig.link.ask(("SET", "a", "b"), ("LPUSH", "a", "c"))
        assert rig.link.up
        assert rig.failures == {"refused": FAILURES_MAX + 1}


async def test_one_that_refuses_connections_is_left_alone_until_it_is_back(redis_url: str) -> None:
    async with Severable.to(port_of(redis_url)) as cable:
        url = redis_url.replace(f":{port_of(redis_url)}", f":{cable.port}")
        async with linked(url) as rig:
            await rig.link.ask(("SET", "a", "b"))
            await cable.cut()
            with capture_logs() as logged:
                await away(rig.link)
                with pytest.raises(RedisAway):
                    await rig.link.ask(("GET", "a"))
            assert [line["event"] for line in logged] == ["redis_away"]
            assert rig.failures == {"connection": FAILURES_MAX}  # The last one was not asked.
            await cable.mend()
            await rig.back()
            assert rig.told == [False, True]
            assert await rig.link.ask(("GET", "a")) == [b"b"]


async def test_one_that_was_not_there_at_the_start_is_found(redis_url: str) -> None:
    async with Severable.to(port_of(redis_url)) as cable:
        await cable.cut()
        async with linked(redis_url.replace(f":{port_of(redis_url)}", f":{cable.port}")) as rig:
            await away(rig.link)
            await cable.mend()
            await rig.back()


@pytest.mark.timed
async def test_one_that_hangs_costs_its_callers_a_bounded_time_once(own: OwnRedis) -> None:
    """All of them at once: whoever waits for a connection, or for one to open, is as soon through."""
    count = 6 * CONNECTIONS_MAX
    for _ in range(5):  # A cancellation that is lost now and then would be seen.
        async with linked(own.url, timeout_s=SHORT_S) as rig:
            own.signal(signal.SIGSTOP)
            began_s = asyncio.get_running_loop().time()
            async with asyncio.timeout(WITHIN_S):
                asked = [rig.link.ask(("GET", "a")) for _ in range(count)]
                results = await asyncio.gather(*asked, return_exceptions=True)
            assert asyncio.get_running_loop().time() - began_s < count * SHORT_S / 2
            assert all(isinstance(result, RedisAway) for result in results)
            assert rig.failures.keys() == {"timeout"}
            own.signal(signal.SIGCONT)
            if not rig.link.up:  # On a machine that is too busy, it blames that.
                await rig.back()
                assert rig.told == [False, True]
            await echoes(rig.link, "hello")


async def test_a_process_that_is_too_busy_to_look_blames_itself(own: OwnRedis) -> None:
    own.signal(signal.SIGSTOP)
    async with linked(own.url, timeout_s=SHORT_S) as rig:
        for _ in range(FAILURES_MAX):
            asking = asyncio.create_task(rig.link.ask(("GET", "a")))
            await asyncio.sleep(0)
            time.sleep(3 * SHORT_S)  # noqa: ASYNC251 - That is the point.
            with pytest.raises(RedisAway):
                await asking
        assert rig.link.up
        assert rig.failures == {"timeout": FAILURES_MAX}


async def test_hanging_and_coming_back_mixes_up_no_answers(own: OwnRedis) -> None:
    """What a caller gave up waiting for is not the next one's answer."""
    async with linked(own.url, timeout_s=SHORT_S) as rig:
        for number in range(5):
            own.signal(signal.SIGSTOP)
            with pytest.raises(RedisAway):
                await rig.link.ask(("ECHO", f"old {number}"))
            own.signal(signal.SIGCONT)
            await echoes(rig.link, f"new {number}")


async def test_callers_who_leave_mix_up_no_answers(redis_url: str) -> None:
    chance = random.Random(5)
    async with linked(redis_url) as rig:

        async def ask(number: int) -> None:
            assert await rig.link.ask(("ECHO", str(number)), ("ECHO", "x" * 100_000)) == [
                str(number).encode(),
                b"x" * 100_000,
            ]

        async def leave(number: int) -> None:
            task = asyncio.create_task(ask(number))
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                return

        for start in range(0, 400, 20):
            await asyncio.gather(
                *(map(leave, range(start, start + 20))), *(map(ask, range(start, start + 20)))
            )
        assert rig.link.up
        assert rig.failures == {}


async def test_more_callers_than_connections_all_get_their_answers(redis_url: str) -> None:
    async with linked(redis_url) as rig:
        answers = await asyncio.gather(
            *(rig.link.ask(("ECHO", str(number))) for number in range(10 * CONNECTIONS_MAX))
        )
        assert answers == [[str(number).encode()] for number in range(10 * CONNECTIONS_MAX)]


async def test_a_full_one_still_gives(own: OwnRedis) -> None:
    async with linked(own.url) as rig:
        await rig.link.ask(("SET", "a", "b"))
        own.configure("maxmemory-policy", "noeviction")
        own.configure("maxmemory", "1")
        for _ in range(FAILURES_MAX):
            with pytest.raises(RedisAway):
                await rig.link.ask(("SET", "a", "c"))
        assert await rig.link.ask(("GET", "a")) == [b"b"]
        assert rig.told == []
        own.configure("maxmemory", "0")
        await rig.link.ask(("SET", "a", "c"))


async def test_a_flushed_one_has_nothing(own: OwnRedis) -> None:
    async with linked(own.url) as rig:
        await rig.link.ask(("SET", "a", "b"))
        own.flush()
        assert await rig.link.ask(("GET", "a")) == [None]


async def test_a_wrong_password_is_not_told(redis_url: str) -> None:
    with capture_logs() as logged:
        async with linked(f"redis://:hunter2@127.0.0.1:{port_of(redis_url)}/0") as rig:
            await away(rig.link)
    assert "hunter2" not in str(logged)


async def test_what_it_does_is_measured(own: OwnRedis) -> None:
    async with linked(own.url) as rig:
        await echoes(rig.link, "hello")
        assert rig.measured("seconds_count")
        assert rig.measured("up") == 1
        assert rig.measured("pool_connections", state="idle") == 1
        assert rig.measured("pool_connections", state="used") == 0
        assert rig.measured("pool_connections_max") == CONNECTIONS_MAX


async def test_that_it_is_away_is_measured() -> None:
    (port,) = free_ports(1)
    async with linked(f"redis://127.0.0.1:{port}") as rig:
        await away(rig.link)
        assert rig.measured("up") == 0
        assert rig.measured("seconds_count") == 0, "what was not answered has no time"
        assert rig.measured("failures_total", cause="connection") == FAILURES_MAX
