"""Streams that go on where they were when the connection was lost."""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

from ollamesh.client.errors import CallError

Response = TypeVar("Response")

RECONNECTS_MAX = 20  # In a row, without an event between them: about 25 seconds, enough for a restart.
RECONNECT_AFTER_S, RECONNECT_AFTER_MAX_S = 0.1, 2.0


async def resumed(
    opened: Callable[[int, float], AsyncGenerator[Response, None]],
    sequence_of: Callable[[Response], int],
    *,
    after_sequence: int,
    deadline_s: float,
) -> AsyncGenerator[Response, None]:
    """Everything after `after_sequence`, each once. A lost connection is made anew, ever more patiently.

    `opened` makes the stream of what follows a sequence, with so many seconds for it.
    """
    last = after_sequence
    reopening = reopened(
        lambda left_s: opened(last, left_s), lambda error: error.is_connection_lost, deadline_s=deadline_s
    )
    async with aclosing(reopening) as responses:
        async for response in responses:
            last = sequence_of(response)
            yield response


async def reopened(
    opened: Callable[[float], AsyncGenerator[Response, None]],
    is_lost: Callable[[CallError], bool],
    *,
    deadline_s: float,
) -> AsyncGenerator[Response, None]:
    """What streams yield that are opened one after another, each because the one before `is_lost`.

    `opened` makes a stream of what has not been yielded yet, with so many seconds for it.
    """
    loop = asyncio.get_running_loop()
    ends_at_s = loop.time() + deadline_s
    lost_count = 0
    while True:
        try:
            async with aclosing(opened(ends_at_s - loop.time())) as responses:
                async for response in responses:
                    lost_count = 0
                    yield response
        except CallError as error:
            pause_s = max(backoff_s(lost_count), error.retry_after_s or 0)
            is_last = lost_count == RECONNECTS_MAX or loop.time() + pause_s > ends_at_s
            if is_last or not is_lost(error):
                raise
            await asyncio.sleep(pause_s)
            lost_count += 1
        else:
            return


def backoff_s(lost_count: int) -> float:
    """Twice as long each time, and never the same for two clients that lost the same server."""
    longest_s = min(RECONNECT_AFTER_S * 2**lost_count, RECONNECT_AFTER_MAX_S)
    return random.uniform(longest_s / 2, longest_s)  # noqa: S311 - Nothing secret.
