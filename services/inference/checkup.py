"""Whether the parts that everybody needs work: asked all the time, so that who wants to know need not wait.

A store that hangs keeps its question waiting for longer than anybody would; so a part is well only if it said so
lately. Nothing is told of a part but one word.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial

from services.common.errors import StoreBusy, StoreFailure
from services.common.postgres import Database
from services.inference.adapters.redis_link import FAILURES_MAX, RedisAway, RedisLink
from services.inference.deciding import Background

ASK_EVERY_S = 1.0
STALE_AFTER_S = 2.5

Check = Callable[[], Awaitable[bool]]


class Word(Enum):
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    DISABLED = "disabled"  # This installation does without.


@dataclass(slots=True)
class _Part:
    check: Check
    well_at_s: float | None = field(default=None, init=False)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self.well_at_s = loop.time() if await self.check() else None
            await asyncio.sleep(ASK_EVERY_S)

    def word(self, now_s: float) -> Word:
        is_well = self.well_at_s is not None and now_s - self.well_at_s <= STALE_AFTER_S
        return Word.HEALTHY if is_well else Word.UNHEALTHY


class Checkup:
    """`has_instance` tells whether any Ollama can be given work; the others may be missing."""

    def __init__(
        self, *, has_instance: Callable[[], bool], database: Database | None, redis: RedisLink | None
    ) -> None:
        self._has_instance = has_instance
        self._database = _Part(partial(_database_answers, database)) if database is not None else None
        self._cache = _Part(partial(_redis_answers, redis)) if redis is not None else None

    def background(self) -> list[Background]:
        parts = {"database": self._database, "cache": self._cache}
        return [(f"checkup of {name}", part.run) for name, part in parts.items() if part is not None]

    def words(self) -> dict[str, Word]:
        """By the names that monitoring knows."""
        now_s = asyncio.get_running_loop().time()
        return {
            "api": Word.HEALTHY,  # It is answering.
            "ollama": Word.HEALTHY if self._has_instance() else Word.UNHEALTHY,
            "database": self._database.word(now_s) if self._database is not None else Word.DISABLED,
            "cache": self._cache.word(now_s) if self._cache is not None else Word.DISABLED,
        }


async def _database_answers(database: Database) -> bool:
    try:
        async with database.connection() as connection:
            await connection.execute("SELECT 1")
    except StoreBusy:
        return True  # It has its hands full with answering others.
    except StoreFailure:
        return False
    return True


async def _redis_answers(redis: RedisLink) -> bool:
    """One late answer may be this process's own hiccup."""
    for _ in range(FAILURES_MAX):
        try:
            await redis.ask(("PING",))
        except RedisAway:
            continue
        return True
    return False
