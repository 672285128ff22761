"""Tells an answer from the cache as a stream."""

import asyncio
from dataclasses import replace

from services.common.tracing.current import noted
from services.inference.cached import Cached, replay
from services.inference.completion import Source
from services.inference.streams.live import Live


async def tell_again(live: Live, cached: Cached, *, tokens_per_s: float) -> None:
    """Tell it to all readers, at once or at a pace (0: at once)."""
    noted("cache_hit")
    loop = asyncio.get_running_loop()
    completion, began_at_s = live.completion, loop.time()
    completion.place(replace(cached.started, source=Source.CACHE), now_s=began_at_s)
    live.is_decided = True
    live.accept()
    for after_s, piece in replay(cached, by_token=completion.by_token, tokens_per_s=tokens_per_s):
        if (wait_s := began_at_s + after_s - loop.time()) > 0:
            await asyncio.sleep(wait_s)
        if not completion.write(piece):
            return
    completion.finish(cached.outcome)
