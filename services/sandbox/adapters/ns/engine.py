"""The engine `ns`: single-use copies of a pre-imported interpreter, each behind walls of its own.

    service --- bubblewrap (other uid, own namespaces) --- zygote --- jail (init, program)
                                                              +------ jail (init, program) ...

It proves itself whenever it starts (see selftest) and makes no jail before that. When the zygote dies,
for whatever reason, everything under it is gone, and a new one is started and tried.
"""

import asyncio
import os
from dataclasses import asdict
from pathlib import Path

import structlog

from services.sandbox import profiles
from services.sandbox.adapters.ns import cgroups, explain, selftest
from services.sandbox.adapters.ns.cgroups import Cgroups
from services.sandbox.adapters.ns.inside import kernel
from services.sandbox.adapters.ns.inside.zygote import ENVIRONMENT
from services.sandbox.adapters.ns.jail import NsJail
from services.sandbox.adapters.ns.pool import Pool
from services.sandbox.adapters.ns.zygote import Zygote
from services.sandbox.core.limits import Limits
from services.sandbox.errors import SandboxUnavailable, SessionsNotSupported
from services.sandbox.ports import SessionJail, Strength
from services.sandbox.profiles import Profile

log = structlog.get_logger(__name__)

RESTARTS = "the engine restarts"
RESTART_AFTER_S = 0.2  # When it was fit for use and ended.
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
        self._pool: Pool | None = None
        self.problem: str | None = "the engine is starting"
        self.strength = Strength(enforced_limits=(), weaknesses=())

    async def take(self, limits: Limits) -> NsJail:
        if self._pool is None or self.problem is not None:
            raise SandboxUnavailable(problem=self.problem)
        return await self._pool.take(limits)

    async def open(self, limits: Limits) -> SessionJail:  # noqa: ARG002 -- not yet.
        raise SessionsNotSupported(profile=self.profile.name)

    async def run(self) -> None:
        while True:
            self.problem = await self._attempt()
            log.error("engine_down", engine=self.engine, profile=self.profile.name, problem=self.problem)
            await asyncio.sleep(RESTART_AFTER_S if self.problem == RESTARTS else RETRY_AFTER_S)

    async def _attempt(self) -> str:
        """Be of use for as long as possible. Return what is the matter now."""
        if (problem := explain.root_problem(self._folder)) is not None:
            return problem
        try:
            self.profile = profiles.read(self._folder)
        except (OSError, ValueError):
            log.exception("profile_unreadable", folder=self._folder.name)
            return "the profile's description cannot be read"
        found = await asyncio.to_thread(cgroups.find)
        problem = await self._live(found)
        if problem == RESTARTS or not found.controllers:
            return problem
        return await self._live(Cgroups(()))  # Perhaps it is they that this machine refuses.

    async def _live(self, limiters: Cgroups) -> str:
        """One zygote, from its start to its end. Return what is the matter now."""
        try:
            zygote = Zygote.start(self._folder)
        except OSError:
            log.exception("zygote_not_started")
            return explain.kernel_problem()
        try:
            async with Pool.over(zygote, limiters, usual=self._usual, warm_count=self._warm_count) as pool:
                if (problem := await self._flaw(pool)) is not None:
                    return problem
                self.strength = _strength(limiters.controllers)
                await self._serve(pool, zygote)
                return RESTARTS
        finally:
            await asyncio.to_thread(limiters.close)

    async def _flaw(self, pool: Pool) -> str | None:
        """Why this engine must not be used; None if it may."""
        stamp = str((self._folder / "stamp").absolute())
        variables = [name for name in os.environ if name not in ENVIRONMENT]
        try:
            found = await selftest.breaches(pool.build, host_file=stamp, environment=variables)
        except SandboxUnavailable:
            return explain.kernel_problem()
        return f"the engine failed its self-test: a program {', '.join(found)}" if found else None

    async def _serve(self, pool: Pool, zygote: Zygote) -> None:
        pool.keep_warm()
        self._pool, self.problem = pool, None
        log.info("engine_up", engine=self.engine, profile=self.profile.name, strength=asdict(self.strength))
        try:
            await asyncio.shield(zygote.gone)
        finally:
            self._pool, self.problem = None, RESTARTS


def _strength(controllers: frozenset[str]) -> Strength:
    weaknesses = ["The kernel is shared with the host: a hole in it is a way out."]
    if "memory" not in controllers:
        weaknesses.append("Memory is measured every 20 ms instead of limited: no cgroup can be made here.")
    if "cpu" not in controllers:
        weaknesses.append(
            "A program with several threads may use every processor: no cgroup can be made here."
        )
    if kernel.landlock_abi() == 0:
        weaknesses.append("The kernel has no Landlock: file access is confined by mounts alone.")
    limited = ["process_count", "files_bytes", *(["memory_bytes"] if "memory" in controllers else [])]
    return Strength(tuple(limited), tuple(weaknesses))
