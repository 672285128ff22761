"""The engine `ns`: single-use copies of a pre-imported interpreter, each behind walls of its own.

    service --- bubblewrap (other uid, own namespaces) --- zygote --- jail (init, program)
                                                              +------ jail (init, program) ...

It proves itself whenever it starts (see selftest) and makes no jail before that. When the zygote dies,
for whatever reason, everything under it is gone, and a new one is started and tried. When it is worn, a new
one is started and tried beside it and takes its place; jails under way finish with the old one.
"""

import asyncio
import os
from contextlib import suppress
from dataclasses import asdict
from itertools import count
from pathlib import Path

import structlog

from services.sandbox import profiles
from services.sandbox.adapters.ns import explain, means, selftest
from services.sandbox.adapters.ns.inside.zygote import ENVIRONMENT
from services.sandbox.adapters.ns.jail import NsJail
from services.sandbox.adapters.ns.means import Means
from services.sandbox.adapters.ns.pool import Pool, RetiredError
from services.sandbox.adapters.ns.session import NsSession
from services.sandbox.adapters.ns.zygote import Zygote
from services.sandbox.core.limits import Limits
from services.sandbox.errors import SandboxUnavailable
from services.sandbox.ports import STARTING, Strength, Warm
from services.sandbox.profiles import Profile

log = structlog.get_logger(__name__)

RESTARTS = "the engine restarts"
RESTART_AFTER_S = 0.2  # When it was fit for use and ended.
RETIRING_MAX = 4  # Zygotes of which sessions are left; as long as there are so many, a worn one goes on.
RETRY_AFTER_S = 5.0  # When it was not fit for use: something must be mended first.


class NsJails:
    """The port `Jails`."""

    engine = "ns"

    def __init__(self, folder: Path, *, usual: Limits, warm_count: int) -> None:
        """Make jails of the profile in `folder`."""
        self.profile = Profile(name=folder.name)
        self._folder = folder
        self._usual = usual
        self._warm_count = warm_count
        self._pool: Pool | None = None  # That makes jails now.
        self._pools: set[Pool] = set()  # With those that are still to be of use, or have been.
        self.problem: str | None = STARTING
        self.strength = Strength(enforced_limits=(), weaknesses=())
        self._retiring: set[asyncio.Task[None]] = set()
        self._served = False
        self._steps_down: int | None = (
            None  # From the best means to those with which it was fit for use first.
        )

    @property
    def warm(self) -> Warm:
        count = 0 if self._pool is None else self._pool.warm_count
        return Warm(count=count, wanted_count=self._warm_count)

    async def take(self, limits: Limits) -> NsJail:
        while True:
            if (pool := self._pool) is None or self.problem is not None:
                raise SandboxUnavailable(problem=self.problem)
            with suppress(RetiredError):  # It was replaced meanwhile.
                return await pool.take(limits)

    async def open(self, limits: Limits) -> NsSession:
        jail = await self.take(limits)
        try:
            return NsSession(jail, files_bytes_max=limits.files_bytes)
        except SandboxUnavailable:
            jail.kill()  # Nobody else knows of it.
            raise

    async def run(self) -> None:
        while True:
            self.problem = await self._attempt()
            log.error("engine_down", engine=self.engine, profile=self.profile.name, problem=self.problem)
            await asyncio.sleep(RETRY_AFTER_S)

    async def _attempt(self) -> str:
        """Be of use for as long as possible. Return what is the matter now.

        Once it has been of use, it does not step down any more: what was refused since was an accident, such as a
        zygote that somebody killed, and nobody would notice that the walls are lower.
        """
        if (problem := explain.root_problem(self._folder)) is not None:
            return problem
        try:
            self.profile = profiles.read(self._folder)
        except (OSError, ValueError) as error:
            log.exception("profile_unreadable", folder=self._folder.name)
            return profiles.problem(error)
        every = means.found()
        problem = RESTARTS
        for step in count():
            if self._steps_down is not None and step > self._steps_down:
                break
            if (some := await asyncio.to_thread(next, every, None)) is None:
                break
            self._served = False
            problem = await self._live(some)
            if self._served:
                self._steps_down = step
                break
        return problem

    async def _live(self, some: Means) -> str:
        """With `some` means, for as long as there is a fit zygote. Return what is the matter then."""
        try:
            async with asyncio.TaskGroup() as tasks:
                try:
                    return await self._succeed(some, tasks)
                finally:
                    self._pool = None
                    await asyncio.gather(*(pool.close() for pool in self._pools))
                    self._pools.clear()
        finally:
            await asyncio.to_thread(some.close)

    async def _succeed(self, some: Means, tasks: asyncio.TaskGroup) -> str:
        """One zygote after another. Return why there is no next one."""
        current: Pool | None = None
        while True:
            found = await self._fit(some, tasks)
            if isinstance(found, Pool):
                if current is not None:
                    await found.filled()
                    retiring = tasks.create_task(self._retire(current))
                    self._retiring.add(retiring)
                    retiring.add_done_callback(self._retiring.discard)
                current = found
                self._serve(current, some)
                await asyncio.wait((current.zygote.gone, current.worn), return_when=asyncio.FIRST_COMPLETED)
                while len(self._retiring) >= RETIRING_MAX and not current.zygote.gone.done():
                    ends = (current.zygote.gone, *self._retiring)
                    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            elif current is None or current.zygote.gone.done():
                return found
            else:
                log.error("zygote_not_replaced", problem=found)
                await asyncio.wait((current.zygote.gone,), timeout=RETRY_AFTER_S)
            if current.zygote.gone.done():
                self._pool, self.problem = None, RESTARTS
                await asyncio.sleep(RESTART_AFTER_S)

    async def _fit(self, some: Means, tasks: asyncio.TaskGroup) -> Pool | str:
        """A new zygote that has proved itself, or what is the matter."""
        try:
            zygote = Zygote.start(self._folder, self.profile, some.slots.first_uid if some.slots else None)
        except OSError:
            log.exception("zygote_not_started")
            return explain.kernel_problem()
        pool = Pool(zygote, some, tasks, usual=self._usual, warm_count=self._warm_count)
        self._pools.add(pool)
        if (problem := await zygote.failure() or await self._flaw(pool)) is not None:
            await pool.close()
            self._pools.discard(pool)
            return problem
        pool.keep_warm()
        return pool

    async def _flaw(self, pool: Pool) -> str | None:
        """Why this zygote must not be used; None if it may."""
        stamp = str((self._folder / "stamp").absolute())
        expected = {**ENVIRONMENT, **self.profile.environment}
        variables = [name for name in os.environ if name not in expected]

        async def build_trial(limits: Limits) -> NsJail:
            jail = await pool.build(limits)
            jail.become_trial()
            return jail

        try:
            found = await selftest.breaches(build_trial, host_file=stamp, environment=variables)
            if self.profile.command and not await selftest.starts(pool.build, self._usual):
                return f"{self.profile.command[0]} does not start in a jail"
        except SandboxUnavailable:
            return explain.kernel_problem()
        return f"the engine failed its self-test: a program {', '.join(found)}" if found else None

    def _serve(self, pool: Pool, some: Means) -> None:
        self.strength = some.strength
        self._pool, self.problem, self._served = pool, None, True
        log.info("engine_up", engine=self.engine, profile=self.profile.name, strength=asdict(self.strength))

    async def _retire(self, pool: Pool) -> None:
        await pool.retire()
        self._pools.discard(pool)
