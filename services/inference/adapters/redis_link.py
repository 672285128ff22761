"""The Redis that the replicas share, which may be away at any moment.

It holds only what can be rebuilt, so nobody may wait for it long: every question is bounded by `timeout_s`, and after
a few that failed in a row nobody asks any more, until a question in the background was answered. A Redis that hangs
costs a handful of callers `timeout_s`, once.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog
from prometheus_client import CollectorRegistry
from redis.asyncio import BlockingConnectionPool, Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from services.common.redis_metrics import RedisMetrics
from services.common.tracing.stores import redis_asked

CONNECTIONS_MAX = 32
FAILURES_MAX = 3  # In a row; a single one may be a hiccup of this process.
LATE_TIMEOUTS = 2.0
PROBE_EVERY_S = 0.5

Command = Sequence[str | bytes | int | float]

# How Redis can be away, and how what answers can be something else.
_FAILURES = (RedisError, OSError, TimeoutError, ValueError)
_TIMEOUTS = (TimeoutError, RedisTimeoutError)

log = structlog.get_logger(__name__)


class RedisAway(Exception):
    """It did not answer, is not being asked, or refused (a full one takes nothing more, but still gives)."""


class RedisLink:
    """Asks Redis within `timeout_s`, or not at all."""

    def __init__(
        self,
        pool: BlockingConnectionPool,
        *,
        timeout_s: float,
        probe_every_s: float = PROBE_EVERY_S,
        metrics: RedisMetrics | None = None,
    ) -> None:
        """Without `metrics`, nobody is told how it is doing."""
        self._pool = pool
        self._metrics = metrics or RedisMetrics(CollectorRegistry())
        self._metrics.opened(pool)
        self._timeout_s = timeout_s
        self._probe_every_s = probe_every_s
        self._failure_count = 0
        self._down = asyncio.Event()
        self._watchers: list[Callable[[bool], None]] = [self._metrics.changed]

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, url: str, *, timeout_s: float, metrics: RedisMetrics | None = None
    ) -> AsyncIterator["RedisLink"]:
        """A link to the Redis at `url`, which need not be there yet. Its `run` must run."""
        # By default this client tries again for seconds. Its own timeouts are off: they use `asyncio.wait_for`, which
        # before Python 3.12 can lose a cancellation, so that the one timeout around a question would not be kept.
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS_MAX,
            timeout=None,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            socket_connect_timeout=None,
        )
        try:
            yield cls(pool, timeout_s=timeout_s, metrics=metrics)
        finally:
            await pool.aclose()

    @property
    def up(self) -> bool:
        """Whether it is being asked."""
        return not self._down.is_set()

    def watch(self, changed: Callable[[bool], None]) -> None:
        """Have `changed` told whenever Redis goes away or comes back."""
        self._watchers.append(changed)

    async def ask(self, *commands: Command, refusals: bool = False) -> list[Any]:
        """Return an answer for each command, as Redis gives it; they travel together. Raises RedisAway.

        With `refusals`, a command that Redis refused is answered with its ResponseError, and raises nothing.
        """
        if self._down.is_set():
            raise RedisAway
        began_s = asyncio.get_running_loop().time()
        try:
            with redis_asked(commands):
                answers = await self._asked(commands)
        except _FAILURES as error:
            self._failed(error, asyncio.get_running_loop().time() - began_s)
            raise RedisAway from None
        self._failure_count = 0
        self._metrics.answered(asyncio.get_running_loop().time() - began_s)
        if not refusals and any(isinstance(answer, ResponseError) for answer in answers):
            self._metrics.failed("refused")
            raise RedisAway
        return answers

    async def run(self) -> None:
        """See whether it has come back, as long as it is away. Until cancelled."""
        while True:
            await self._down.wait()
            await asyncio.sleep(self._probe_every_s)
            try:
                await self._asked([("PING",)])
            except _FAILURES:
                continue
            self._failure_count = 0
            self._down.clear()
            self._tell(up=True)

    async def _asked(self, commands: Sequence[Command]) -> list[Any]:
        """Ask over a connection of the pool's, with nothing of the client's between: that takes a third of the time.

        A connection that is left before it has answered is closed, by itself.
        """
        pool = self._pool
        async with asyncio.timeout(self._timeout_s):
            connection: Connection = await pool.get_connection()  # type: ignore[no-untyped-call]
            try:
                await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
                return [await _answer(connection) for _ in commands]
            finally:
                await asyncio.shield(pool.release(connection))

    def _failed(self, error: Exception, took_s: float) -> None:
        is_timeout = isinstance(error, _TIMEOUTS)
        self._metrics.failed("timeout" if is_timeout else "connection")
        if is_timeout and took_s > LATE_TIMEOUTS * self._timeout_s:
            return  # This process was too busy to look; that tells nothing of Redis.
        self._failure_count += 1
        if self._failure_count >= FAILURES_MAX and not self._down.is_set():
            self._down.set()
            self._tell(up=False, cause=type(error).__name__)

    def _tell(self, *, up: bool, cause: str = "") -> None:
        if up:
            log.info("redis_back")
        else:
            log.warning("redis_away", cause=cause)
        for changed in self._watchers:
            changed(up)


async def _answer(connection: Connection) -> object:
    """Return an answer as Redis gives it, or the ResponseError that it is."""
    try:
        return await connection.read_response()
    except ResponseError as refusal:
        return refusal
