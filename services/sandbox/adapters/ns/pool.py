"""The jails of one zygote: some always warm, each used once.

Making a jail takes about 10 ms of a processor; taking a warm one takes none. Only jails with the default
limits are kept, because limits are walls: other ones are built to order. As long as half of them are
there, a new one waits a moment, so that it does not take the processor from the program that took its place.

Bounds: `warm_count` jails are warm, BUILDERS_COUNT are being made, and who takes one waits for TAKE_TIMEOUT_S at most.
A warm jail that dies is replaced, but not at once, so that jails which cannot live do not keep processors busy.
"""

import asyncio
import socket
from collections import deque
from itertools import count

import structlog

from services.sandbox.adapters.ns.inside.order import Order
from services.sandbox.adapters.ns.jail import NsJail
from services.sandbox.adapters.ns.means import Means, Place
from services.sandbox.adapters.ns.zygote import Zygote
from services.sandbox.building import built
from services.sandbox.core.limits import Limits
from services.sandbox.errors import SandboxUnavailable

log = structlog.get_logger(__name__)

BUILD_TIMEOUT_S = 10.0
TAKE_TIMEOUT_S = 10.0
BUILDERS_COUNT = 2  # At once; more would only take processors from the programs that run.
FAILURES_MAX = (
    3  # In a row, of one builder; then the zygote is given up, or at least a fresh one is to follow it.
)
RETRY_AFTER_S = 0.2
REFILL_AFTER_S = 0.015  # Most programs have ended by then.
WORN_AFTER_COUNT = 1000  # Jails of one zygote, which share the layout of their memory and the seed of hash().

_jail_ids = count(1)


class RetiredError(Exception):
    """The pool hands out no jails any more; its successor does."""


class Pool:
    """`worn` is done when the zygote has made so many jails that a fresh one should follow it."""

    def __init__(
        self, zygote: Zygote, means: Means, tasks: asyncio.TaskGroup, *, usual: Limits, warm_count: int
    ) -> None:
        self.zygote = zygote
        self.worn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._means = means
        self._tasks = tasks
        self._usual = usual
        self._warm: deque[NsJail] = deque()
        self._room = asyncio.Semaphore(warm_count)
        self._warm_count = warm_count
        self._made_count = 0
        self._living: set[NsJail] = set()
        self._retired = False
        self._death_s = float("-inf")  # When a warm jail died.
        self._changed = asyncio.Condition()
        self._builders: list[asyncio.Task[None]] = []

    @property
    def warm_count(self) -> int:
        return len(self._warm)

    def keep_warm(self) -> None:
        """From now on, keep `warm_count` jails ready."""
        self._builders = [self._tasks.create_task(self._build_on()) for _ in range(BUILDERS_COUNT)]

    async def filled(self) -> None:
        """Return when `warm_count` jails are ready, or none will be."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: len(self._warm) >= self._warm_count or self.zygote.gone.done()
            )

    async def take(self, limits: Limits) -> NsJail:
        """A jail that nothing has run in. Raises SandboxUnavailable if there is none in time, or RetiredError."""
        if _walls(limits) != _walls(self._usual):
            return await self.build(limits)
        try:
            async with asyncio.timeout(TAKE_TIMEOUT_S):
                return await self._take_warm()
        except TimeoutError as error:
            raise SandboxUnavailable(problem="no jail was ready in time") from error

    async def _take_warm(self) -> NsJail:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._warm or self._retired or self.zygote.gone.done())
            if self._retired:
                raise RetiredError
            if not self._warm:
                raise SandboxUnavailable(problem="the engine has ended")
            self._room.release()
            if (jail := self._warm.popleft()).alive:
                return jail

    async def build(self, limits: Limits) -> NsJail:
        """Raises SandboxUnavailable, or RetiredError."""
        if self._retired:
            raise RetiredError
        return await built(self._tasks, self._begin(limits), timeout_s=BUILD_TIMEOUT_S)

    async def retire(self) -> None:
        """Make no more jails, let those under way finish, and end the zygote."""
        self._retired = True
        for builder in self._builders:
            builder.cancel()
        while self._warm:
            self._warm.popleft().kill()
        async with self._changed:
            self._changed.notify_all()
        while self._living:
            await asyncio.wait([jail.gone for jail in self._living])
        await self.close()

    async def close(self) -> None:
        """End the zygote and everything in it. Idempotent."""
        for builder in self._builders:
            builder.cancel()
        await self.zygote.stop()
        async with self._changed:
            self._changed.notify_all()  # Whoever waits for a jail waits in vain.

    async def _begin(self, limits: Limits) -> NsJail | None:
        """Order a jail that will be buried, or return None, having left nothing."""
        jail_id = next(_jail_ids)
        try:
            place = await asyncio.to_thread(self._means.place, jail_id, limits)
        except OSError:
            log.exception("jail_has_no_place")
            return None
        try:
            jail = self._order(jail_id, limits, place)
        except OSError:
            log.exception("jail_not_ordered")
            await asyncio.to_thread(self._means.take_back, place)
            return None
        self._living.add(jail)
        self._tasks.create_task(self._bury(jail, place))
        self._made_count += 1
        if self._made_count >= WORN_AFTER_COUNT and not self.worn.done():
            self.worn.set_result(None)
        return jail

    def _order(self, jail_id: int, limits: Limits, place: Place) -> NsJail:
        controllers = self._means.cgroups.controllers
        order = Order(
            jail_id=jail_id,
            # Where a cgroup counts, and tells when it has refused, the rlimit must not be first to do so.
            process_count=limits.process_count * (2 if "pids" in controllers else 1),
            files_bytes=limits.files_bytes,
            memory_bytes=None if "memory" in controllers else limits.memory_bytes,
            cpu_s=limits.cpu_s,
            slot=place.slot,
        )
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, place.cgroup.doors() as doors:
                self.zygote.order(order, [theirs.fileno(), *doors])
        except OSError:
            ours.close()
            raise
        jail = NsJail(jail_id, ours, place.cgroup)
        self.zygote.adopt(jail)
        return jail

    async def _build_on(self) -> None:
        failures_count = 0
        while True:
            await self._room.acquire()
            await self._pause()
            try:
                jail = await self.build(self._usual)
            except SandboxUnavailable as error:
                self._room.release()
                failures_count += 1
                if failures_count >= FAILURES_MAX:
                    await self._doubt(is_silent=isinstance(error.__cause__, TimeoutError))
                await asyncio.sleep(RETRY_AFTER_S)
                continue
            failures_count = 0
            async with self._changed:
                self._warm.append(jail)
                self._changed.notify_all()  # One that is cancelled while it wakes would keep it to itself.
            jail.gone.add_done_callback(lambda _, jail=jail: self._miss(jail))  # type: ignore[misc]

    async def _doubt(self, *, is_silent: bool) -> None:
        """Give the zygote up. As long as it answers, its jails may finish: perhaps it is they who have all that jails
        could be made of, and a program must not end others by taking it.
        """
        if is_silent or not self._living:
            await self.zygote.stop()
        elif not self.worn.done():
            self.worn.set_result(None)

    async def _pause(self) -> None:
        """Before a jail is built: leave the processors to who needs them more."""
        if 2 * len(self._warm) >= self._warm_count:
            await asyncio.sleep(REFILL_AFTER_S)
        since_death_s = asyncio.get_running_loop().time() - self._death_s
        if since_death_s < RETRY_AFTER_S:
            await asyncio.sleep(RETRY_AFTER_S - since_death_s)

    def _miss(self, jail: NsJail) -> None:
        """`jail` is gone; if it was warm, make room for another one."""
        if jail in self._warm:
            log.warning("warm_jail_died", jail_id=jail.jail_id)
            self._warm.remove(jail)
            self._death_s = asyncio.get_running_loop().time()
            self._room.release()

    async def _bury(self, jail: NsJail, place: Place) -> None:
        await asyncio.shield(jail.gone)  # It is not ours to cancel.
        self._living.discard(jail)
        await asyncio.to_thread(self._means.take_back, place)


def _walls(limits: Limits) -> tuple[object, ...]:
    """The limits that are built into a jail; the others are kept by the engine."""
    return limits.memory_bytes, limits.cpu_s, limits.process_count, limits.files_bytes
