"""Moving windows of the `limits` library: in Redis for all replicas, in memory for one.

Redis is asked within a timeout, and after a few failures in a row not at all until it has answered in the background: a
Redis that hangs costs a handful of requests `timeout_s`, once.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol, cast

from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from prometheus_client import CollectorRegistry
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from services.auth.core.rates import Window
from services.auth.rate_ports import CounterAway
from services.common.redis_metrics import RedisMetrics
from services.common.tracing.stores import redis_asked

CONNECTIONS_MAX = 32
FAILURES_MAX = 3  # In a row; a single one may be a hiccup of this process.
PROBE_EVERY_S = 0.5
WAIT_S_MIN = 0.05  # Clocks of replicas differ a little.

_FAILURES = (RedisError, OSError, TimeoutError, ValueError)


class Changed(Protocol):
    """Is told when Redis goes away or comes back."""

    def __call__(self, *, up: bool) -> None: ...


def _nobody_told(*, up: bool) -> None:
    """Until somebody wants to know."""


class LimitsCounter:
    """Implements rate_ports.Counter over any storage of the library's."""

    def __init__(self, storage: MemoryStorage | RedisStorage) -> None:
        self._limiter = MovingWindowRateLimiter(storage)

    @classmethod
    def in_memory(cls) -> "LimitsCounter":
        return cls(MemoryStorage())

    async def hit(self, key: str, limit: Window) -> float | None:
        if limit.count == 0:
            return float(limit.seconds)
        item = RateLimitItemPerSecond(limit.count, limit.seconds)
        if await self._limiter.hit(item, key):
            return None
        stats = await self._limiter.get_window_stats(item, key)
        return max(WAIT_S_MIN, stats.reset_time - time.time())


class RedisCounter:
    """Likewise in Redis, which may be away at any moment. `run` must run."""

    def __init__(self, storage: RedisStorage, metrics: RedisMetrics, *, timeout_s: float) -> None:
        self._counter = LimitsCounter(storage)
        self._storage = storage
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._failure_count = 0
        self._down = asyncio.Event()
        self.changed: Changed = _nobody_told

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, url: str, *, timeout_s: float, metrics: RedisMetrics | None = None
    ) -> AsyncIterator["RedisCounter"]:
        """One in the Redis at `url`, which need not be there yet."""
        # The client's own timeouts and retries would add to ours.
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS_MAX,
            timeout=None,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            socket_connect_timeout=None,
        )
        storage = RedisStorage(
            f"async+{url}",
            implementation="redispy",
            key_prefix="quotas:rates",
            connection_pool=cast("str", pool),  # The library's types know no pools.
        )
        told = metrics or RedisMetrics(CollectorRegistry())
        told.opened(pool)
        try:
            yield cls(storage, told, timeout_s=timeout_s)
        finally:
            await pool.aclose()

    @property
    def up(self) -> bool:
        return not self._down.is_set()

    async def hit(self, key: str, limit: Window) -> float | None:
        if self._down.is_set():
            raise CounterAway
        began_s = asyncio.get_running_loop().time()
        try:
            with redis_asked((("EVALSHA",),)):  # A script of the library's.
                async with asyncio.timeout(self._timeout_s):
                    found = await self._counter.hit(key, limit)
        except _FAILURES as error:
            self._failed(error, asyncio.get_running_loop().time() - began_s)
            raise CounterAway from None
        self._failure_count = 0
        self._metrics.answered(asyncio.get_running_loop().time() - began_s)
        return found

    async def run(self) -> None:
        """See whether it has come back, as long as it is away. Until cancelled."""
        while True:
            await self._down.wait()
            await asyncio.sleep(PROBE_EVERY_S)
            try:
                async with asyncio.timeout(self._timeout_s):
                    if not await self._storage.check():
                        continue
            except _FAILURES:
                continue
            self._failure_count = 0
            self._down.clear()
            self._tell(up=True)

    def _failed(self, error: Exception, took_s: float) -> None:
        self._metrics.failed("timeout" if isinstance(error, TimeoutError) else "connection")
        if isinstance(error, TimeoutError) and took_s > 2 * self._timeout_s:
            return  # This process was too busy to look; that tells nothing of Redis.
        self._failure_count += 1
        if self._failure_count >= FAILURES_MAX and not self._down.is_set():
            self._down.set()
            self._tell(up=False)

    def _tell(self, *, up: bool) -> None:
        self._metrics.changed(up)
        self.changed(up=up)
