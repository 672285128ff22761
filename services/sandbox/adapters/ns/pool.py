"""The jails of one zygote: some always warm, each used once.

Making a jail takes about 10 ms of a processor; taking a warm one takes none. Only jails with the default
limits are kept, because limits are walls: other ones are built to order. As long as half of them are
there, a new one waits a moment, so that it does not take the processor from the program that took its place.
"""

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Self

import structlog

from services.sandbox.adapters.ns.cgroups import Cgroup, Cgroups
from services.sandbox.adapters.ns.inside.order import Order
from services.sandbox.adapters.ns.jail import NsJail
from services.sandbox.adapters.ns.zygote import Zygote
from services.sandbox.core.limits import Limits
from services.sandbox.errors import SandboxUnavailable

log = structlog.get_logger(__name__)

BUILD_TIMEOUT_S = 10.0
BUILDERS_COUNT = 2  # At once; more would only take processors from the programs that run.
FAILURES_MAX = 3  # In a row, of one builder; then the zygote is given up.
RETRY_AFTER_S = 0.2
REFILL_AFTER_S = 0.015  # Most programs have ended by then.

_jail_ids = count(1)


class Pool:
    def __init__(
        self, zygote: Zygote, cgroups: Cgroups, tasks: asyncio.TaskGroup, *, usual: Limits, warm_count: int
    ) -> None:
        self._zygote = zygote
        self._cgroups = cgroups
        self._tasks = tasks
        self._usual = usual
        self._warm: deque[NsJail] = deque()
        self._room = asyncio.Semaphore(warm_count)
        self._calm_count = (warm_count + 1) // 2
        self._changed = asyncio.Condition()
        self._builders: list[asyncio.Task[None]] = []

    @classmethod
    @asynccontextmanager
    async def over(
        cls, zygote: Zygote, cgroups: Cgroups, *, usual: Limits, warm_count: int
    ) -> AsyncIterator[Self]:
        """A pool, empty at first. Leaving it ends the zygote and everything in it."""
        async with asyncio.TaskGroup() as tasks:
            pool = cls(zygote, cgroups, tasks, usual=usual, warm_count=warm_count)
            try:
                yield pool
            finally:
                await pool._close()

    def keep_warm(self) -> None:
        """From now on, keep `warm_count` jails ready."""
        self._builders = [self._tasks.create_task(self._build_on()) for _ in range(BUILDERS_COUNT)]

    async def take(self, limits: Limits) -> NsJail:
        """A jail that nothing has run in. Raises SandboxUnavailable if the zygote is or goes away."""
        if _walls(limits) != _walls(self._usual):
            return await self.build(limits)
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._warm or self._zygote.gone.done())
            if not self._warm:
                raise SandboxUnavailable(problem="the engine has ended")
            self._room.release()
            if (jail := self._warm.popleft()).alive:
                return jail

    async def build(self, limits: Limits) -> NsJail:
        """Raises SandboxUnavailable."""
        # Finished even if its caller leaves: only then is what it makes known, and can be taken away.
        making = self._tasks.create_task(self._begin(limits))
        try:
            jail = await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(_kill)
            raise
        if jail is None:
            raise SandboxUnavailable(problem="a jail could not be built")
        try:
            async with asyncio.timeout(BUILD_TIMEOUT_S):
                await jail.ready
        except BaseException as error:
            jail.kill()
            if isinstance(error, TimeoutError):
                raise SandboxUnavailable(problem="a jail took too long to build") from error
            raise
        return jail

    async def _begin(self, limits: Limits) -> NsJail | None:
        """Order a jail that will be buried, or return None, having left nothing."""
        jail_id = next(_jail_ids)
        try:
            cgroup = await asyncio.to_thread(self._cgroups.make, jail_id, limits)
        except OSError:
            log.exception("cgroup_not_made")
            return None
        try:
            jail = self._order(jail_id, limits, cgroup)
        except OSError:
            log.exception("jail_not_ordered")
            await asyncio.to_thread(cgroup.remove)
            return None
        self._tasks.create_task(self._bury(jail))
        return jail

    def _order(self, jail_id: int, limits: Limits, cgroup: Cgroup) -> NsJail:
        order = Order(
            jail_id=jail_id,
            process_count=limits.process_count,
            files_bytes=limits.files_bytes,
            memory_bytes=None if "memory" in self._cgroups.controllers else limits.memory_bytes,
            cpu_s=limits.cpu_s,
        )
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, cgroup.doors() as doors:
                self._zygote.order(order, [theirs.fileno(), *doors])
        except OSError:
            ours.close()
            raise
        jail = NsJail(jail_id, ours, cgroup)
        self._zygote.adopt(jail)
        return jail

    async def _build_on(self) -> None:
        failures_count = 0
        while True:
            await self._room.acquire()
            if len(self._warm) >= self._calm_count:
                await asyncio.sleep(REFILL_AFTER_S)
            try:
                jail = await self.build(self._usual)
            except SandboxUnavailable:
                self._room.release()
                failures_count += 1
                if failures_count == FAILURES_MAX:
                    await self._zygote.stop()
                await asyncio.sleep(RETRY_AFTER_S)
                continue
            failures_count = 0
            async with self._changed:
                self._warm.append(jail)
                self._changed.notify_all()  # One that is cancelled while it wakes would keep it to itself.

    async def _close(self) -> None:
        for builder in self._builders:
            builder.cancel()
        await self._zygote.stop()
        async with self._changed:
            self._changed.notify_all()  # Whoever waits for a jail waits in vain.

    async def _bury(self, jail: NsJail) -> None:
        await jail.gone
        await asyncio.to_thread(jail.cgroup.remove)


def _kill(making: asyncio.Task[NsJail | None]) -> None:
    """End a jail that nobody waits for any more."""
    if not making.cancelled() and (jail := making.result()) is not None:
        jail.kill()


def _walls(limits: Limits) -> tuple[object, ...]:
    """The limits that are built into a jail; the others are kept by the engine."""
    return limits.memory_bytes, limits.cpu_s, limits.process_count, limits.files_bytes
