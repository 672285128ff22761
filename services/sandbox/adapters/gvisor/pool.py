"""The jails of one profile: some always warm, each used once.

Making one takes a quarter of a second of a processor, taking a warm one nothing. They fit all limits, which are set
when a program begins, but for a memory that is larger than usual: the host's control group has to know it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Self

import structlog

from services.sandbox.adapters.gvisor import place
from services.sandbox.adapters.gvisor.jail import KERNEL_BYTES, GvisorJail
from services.sandbox.adapters.gvisor.runsc import JAIL_UID, Runsc, Started
from services.sandbox.adapters.ns.cgroups import Cgroup, Cgroups
from services.sandbox.building import built
from services.sandbox.core.limits import Limits
from services.sandbox.errors import SandboxUnavailable

log = structlog.get_logger(__name__)

BUILD_TIMEOUT_S = 20.0
FAILURES_MAX = 3  # In a row; then the engine is down, and proves itself anew.
RETRY_AFTER_S = 0.5
TASK_COUNT_MAX = (
    512  # Of the host, for a jail: gVisor has some thirty, and a few more for each process in it.
)

_jail_ids = count(1)


class Pool:
    """Leaves nothing behind when its `over` is left."""

    def __init__(
        self,
        runsc: Runsc,
        folder: Path,
        cgroups: Cgroups,
        tasks: asyncio.TaskGroup,
        *,
        usual: Limits,
        warm_count: int,
    ) -> None:
        self._runsc, self._folder, self._cgroups, self._tasks = runsc, folder, cgroups, tasks
        self._usual = usual
        self._uid = JAIL_UID if folder.stat().st_uid == 0 else None
        self._warm: deque[GvisorJail] = deque()
        self._room = asyncio.Semaphore(warm_count)
        self._changed = asyncio.Condition()
        self._burials: dict[GvisorJail, asyncio.Task[None]] = {}
        self._builder: asyncio.Task[None] | None = None
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    @asynccontextmanager
    async def over(
        cls, runsc: Runsc, folder: Path, cgroups: Cgroups, *, usual: Limits, warm_count: int
    ) -> AsyncIterator[Self]:
        """A pool, empty at first. Leaving it ends all of its jails."""
        async with asyncio.TaskGroup() as tasks:
            pool = cls(runsc, folder, cgroups, tasks, usual=usual, warm_count=warm_count)
            try:
                yield pool
            finally:
                await pool._close()

    @property
    def warm_count(self) -> int:
        return len(self._warm)

    def keep_warm(self) -> None:
        """From now on, keep `warm_count` jails ready. One is built at a time: it takes a processor."""
        self._builder = self._tasks.create_task(self._build_on())

    async def take(self, limits: Limits) -> GvisorJail:
        """A jail that nothing has run in. Raises SandboxUnavailable if none can be made any more."""
        if limits.memory_bytes > self._usual.memory_bytes:
            return await self.build(limits)
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._warm or self.failed.done())
            if not self._warm:
                raise SandboxUnavailable(problem="the engine has ended")
            self._room.release()
            if (jail := self._warm.popleft()).alive:
                jail.limits = limits
                return jail

    async def build(self, limits: Limits) -> GvisorJail:
        """Raises SandboxUnavailable."""
        return await built(self._tasks, self._begin(limits), timeout_s=BUILD_TIMEOUT_S)

    async def _begin(self, limits: Limits) -> GvisorJail | None:
        """Start a jail that will be buried, or return None, having left nothing."""
        jail_id = next(_jail_ids)
        around = Limits(memory_bytes=limits.memory_bytes + KERNEL_BYTES, process_count=TASK_COUNT_MAX)
        try:
            cgroup = await asyncio.to_thread(self._cgroups.make, jail_id, around)
        except OSError:
            log.exception("cgroup_not_made", engine="gvisor")
            return None
        state = self._folder / f"jail-{jail_id}"
        try:
            place.make_state(state, self._uid)
            with cgroup.doors() as doors:
                jail = self._adopt(jail_id, self._runsc.start(state, doors), cgroup, limits)
        except OSError:
            log.exception("jail_not_started", engine="gvisor")
            await asyncio.to_thread(_remove, cgroup, state)
            return None
        self._burials[jail] = self._tasks.create_task(self._bury(jail, state))
        return jail

    def _adopt(self, jail_id: int, started: Started, cgroup: Cgroup, limits: Limits) -> GvisorJail:
        is_weighed = "memory" not in self._cgroups.controllers
        try:
            return GvisorJail(jail_id, started, cgroup, limits, is_weighed=is_weighed)
        except OSError:
            started.abandon()
            raise

    async def _build_on(self) -> None:
        failures_count = 0
        while failures_count < FAILURES_MAX:
            await self._room.acquire()
            try:
                jail = await self.build(self._usual)
            except SandboxUnavailable:
                self._room.release()
                failures_count += 1
                await asyncio.sleep(RETRY_AFTER_S)
                continue
            failures_count = 0
            async with self._changed:
                self._warm.append(jail)
                self._changed.notify_all()  # One that is cancelled while it wakes would keep it to itself.
        await self._give_up()

    async def _give_up(self) -> None:
        if not self.failed.done():
            self.failed.set_result(None)
        async with self._changed:
            self._changed.notify_all()  # Whoever waits for a jail waits in vain.

    async def _close(self) -> None:
        if self._builder is not None:
            self._builder.cancel()
        await self._give_up()
        for jail in self._burials:
            jail.kill()
        if self._burials:
            await asyncio.wait(self._burials.values())

    async def _bury(self, jail: GvisorJail, state: Path) -> None:
        await jail.buried
        await asyncio.to_thread(_remove, jail.cgroup, state)
        del self._burials[jail]


def _remove(cgroup: Cgroup, state: Path) -> None:
    cgroup.remove()
    place.remove_state(state)
