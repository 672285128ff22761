"""Shows the fleet to whoever watches it: one look a second for all of them, whole states, and no backlog.

A reader remembers only which state it had last, so one that is slow finds the newest when it comes back. It is a
change when an instance, its state, models, slots or GPUs, or who waits, are not what they were. Clocks are not, nor
what moves by itself: GPU figures, expiries, and for how long somebody has waited. What is so is shown with the next
change, and otherwise every ten seconds.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from ollamesh.inference.v1.fleet_pb2 import Fleet

EVERY_S = 1.0
REFRESH_S = 10.0


class FleetWatch:
    """The state of the fleet as its readers see it."""

    def __init__(
        self, look: Callable[[], Awaitable[Fleet]], *, every_s: float = EVERY_S, refresh_s: float = REFRESH_S
    ) -> None:
        self._look_at = look
        self.every_s = every_s
        self._refresh_s = refresh_s
        self._readers: set[Reader] = set()
        self._looked_at_s = self._news_at_s = float("-inf")
        self._signature = b""
        self._arrived = asyncio.Event()  # News; another one for the next.
        self._looking = asyncio.Lock()
        self.latest = Fleet()
        self.version = 0
        self.ended = False

    async def run(self, stop: asyncio.Event) -> None:
        """Look, while anybody watches, until `stop`; then end all readers."""
        while not stop.is_set():
            if self._readers:
                await self._look()
            with suppress(TimeoutError):
                async with asyncio.timeout(self.every_s):
                    await stop.wait()
        self.ended = True
        self._announce()

    def reader(self) -> "Reader":
        """Watch from now on. Whoever has it must close it, however reading ends."""
        reader = Reader(self)
        self._readers.add(reader)
        return reader

    def leave(self, reader: "Reader") -> None:
        self._readers.discard(reader)

    async def refresh(self) -> None:
        """Look, unless somebody has just done so."""
        async with self._looking:
            if _now_s() - self._looked_at_s >= self.every_s:
                await self._look()

    async def news(self) -> None:
        """Return at the next change, or at the end."""
        await self._arrived.wait()

    async def _look(self) -> None:
        self.latest = await self._look_at()
        now_s = self._looked_at_s = _now_s()
        signature = _signature(self.latest)
        if signature != self._signature or now_s - self._news_at_s >= self._refresh_s:
            self._signature, self._news_at_s = signature, now_s
            self.version += 1
            self._announce()

    def _announce(self) -> None:
        self._arrived.set()
        self._arrived = asyncio.Event()


class Reader:
    """One who watches."""

    def __init__(self, watch: FleetWatch) -> None:
        self._watch = watch
        self._version = -1
        self._again_at_s = 0.0

    def close(self) -> None:
        """Watch no longer. Idempotent and synchronous."""
        self._watch.leave(self)

    async def read(self) -> Fleet | None:
        """Return the first state at once and each next when there is one; None at the end."""
        if self._version < 0 and not self._watch.ended:
            await self._watch.refresh()
        await asyncio.sleep(max(0.0, self._again_at_s - _now_s()))
        while self._version == self._watch.version and not self._watch.ended:
            await self._watch.news()
        if self._watch.ended:
            return None
        self._version, self._again_at_s = self._watch.version, _now_s() + self._watch.every_s
        return self._watch.latest


def _signature(fleet: Fleet) -> bytes:
    """Return what two states have in common if nothing has happened between them."""
    noted = Fleet()
    noted.CopyFrom(fleet)
    noted.ClearField("observed_time")
    for instance in noted.instances:
        instance.ClearField("seen_time")
        for resident in instance.resident_models:
            resident.ClearField("expire_time")
        for gpu in instance.gpus:
            for figure in ("memory_used_bytes", "utilization", "temperature_celsius"):
                gpu.ClearField(figure)
    for queue in noted.queues:
        queue.ClearField("oldest_wait")
    return noted.SerializeToString(deterministic=True)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
