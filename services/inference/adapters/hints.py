"""One small document in Redis: what the next start would otherwise have to learn again.

Redis holds only what can be rebuilt. So whatever goes wrong here (away, silent, full, nonsense under the key) is
a miss: counted, logged by the name of its cause, and never an error.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import msgspec
import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

TIMEOUT_S = 0.5
TIMEOUT_MIN_S, TIMEOUT_MAX_S = 0.05, 1.0
BYTES_MAX = 1 << 20
KEPT_S = 30 * 24 * 3600  # Without an expiry it could never be evicted.

# How Redis can be away, and how what it holds can be something else.
FAILURES = (RedisError, OSError, TimeoutError, ValueError, RecursionError)

log = structlog.get_logger(__name__)


class RedisHints:
    """A JSON object of up to `bytes_max` bytes under a key. Both ways take `timeout_s` at most."""

    def __init__(
        self, client: Redis, *, key: str, timeout_s: float = TIMEOUT_S, bytes_max: int = BYTES_MAX
    ) -> None:
        assert TIMEOUT_MIN_S <= timeout_s <= TIMEOUT_MAX_S
        self._client = client
        self._key = key
        self._timeout_s = timeout_s
        self._bytes_max = bytes_max
        self.miss_count = 0  # Since the start.

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, url: str, *, key: str, timeout_s: float = TIMEOUT_S, bytes_max: int = BYTES_MAX
    ) -> AsyncIterator["RedisHints"]:
        """Hints in the Redis at `url`, which need not be there: it is connected to when first needed."""
        # By default this client tries again for seconds.
        client = Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=timeout_s, max_connections=2)
        try:
            yield cls(client, key=key, timeout_s=timeout_s, bytes_max=bytes_max)
        finally:
            await client.aclose()

    async def load(self) -> Mapping[str, object] | None:
        """Return what was saved last; None if that is nothing, too much, not an object or out of reach."""
        try:
            # One byte more than allowed, to see whether it is too much without reading all of it.
            async with asyncio.timeout(self._timeout_s):
                raw = await self._client.getrange(self._key, 0, self._bytes_max)
            if not raw:
                return None  # Nothing was saved, which is no failure.
            if len(raw) > self._bytes_max:
                self._missed("load", cause="TooLarge")
                return None
            return msgspec.json.decode(raw, type=dict[str, object])
        except FAILURES as error:
            self._missed("load", cause=type(error).__name__)
            return None

    async def save(self, document: Mapping[str, object]) -> bool:
        """Replace what was saved; return whether that worked. What is too large leaves what was there."""
        raw = msgspec.json.encode(document)
        if len(raw) > self._bytes_max:
            self._missed("save", cause="TooLarge")
            return False
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._client.set(self._key, raw, ex=KEPT_S)
        except FAILURES as error:
            self._missed("save", cause=type(error).__name__)
            return False
        return True

    def _missed(self, did: str, *, cause: str) -> None:
        self.miss_count += 1
        log.warning("hints_missed", did=did, cause=cause)
