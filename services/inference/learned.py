"""What was learned about the fleet's speed, kept for the next start.

Every replica learns for itself and saves over the others: they all see the same fleet, and whatever is
restored is only where learning starts.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.inference.adapters.hints import RedisHints
from services.inference.core.estimates import Estimates

KEY = "ollamesh:inference:estimates"
SAVE_EVERY_S = 60.0


@asynccontextmanager
async def estimates(redis_url: str | None) -> AsyncIterator[tuple[Estimates, RedisHints | None]]:
    """Estimates that start where the last ones ended, if Redis has them, and are saved at the end."""
    learned = Estimates()
    if redis_url is None:
        yield learned, None
        return
    async with RedisHints.connect(redis_url, key=KEY) as hints:
        learned.restore(await hints.load() or {})
        try:
            yield learned, hints
        finally:
            await hints.save(learned.export())


async def save_now_and_then(learned: Estimates, hints: RedisHints) -> None:
    """Save until cancelled."""
    while True:
        await asyncio.sleep(SAVE_EVERY_S)
        await hints.save(learned.export())
