"""Runs outlive a short absence of the store, but not of their lease."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from services.agent.errors import LeaseLost
from services.common.errors import StoreFailure

Result = TypeVar("Result")

RETRY_EVERY_S = 0.2


async def patiently(attempt: Callable[[], Awaitable[Result]], *, for_s: float) -> Result:
    """What `attempt` returns, as soon as the store answers. Raises LeaseLost if it does not in time."""
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + for_s
    while True:
        try:
            return await attempt()
        except StoreFailure as error:
            if loop.time() >= give_up_s:
                raise LeaseLost from error
            await asyncio.sleep(RETRY_EVERY_S)
