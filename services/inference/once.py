"""A change that was made is not made again for a caller that did not hear of it: the same request_id finds it done.

In this process's memory and for a while: it covers the retry after a lost connection, which is what it is for.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable

from services.inference.errors import RequestIdReused

KEPT_MAX = 1024
KEPT_S = 600.0  # As in completion.proto.


class Once:
    """The requests that were carried out, by who sent them and under which id."""

    def __init__(self) -> None:
        self._done: OrderedDict[tuple[Hashable, str], tuple[float, bytes]] = OrderedDict()

    async def do(
        self, who: Hashable, request_id: str, body: bytes, act: Callable[[], Awaitable[None]]
    ) -> None:
        """Carry out `act` unless that was done for the same request. Raises RequestIdReused, and what `act` does."""
        now_s = asyncio.get_running_loop().time()
        at_s, known = self._done.get((who, request_id), (now_s, None))
        if known is not None and now_s - at_s < KEPT_S:
            if known != body:
                raise RequestIdReused
            return
        await act()
        if request_id:
            self._done[who, request_id] = asyncio.get_running_loop().time(), body
            self._done.move_to_end((who, request_id))
            while len(self._done) > KEPT_MAX:
                self._done.popitem(last=False)
