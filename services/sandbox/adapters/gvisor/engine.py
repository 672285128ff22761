"""The engine `gvisor`: single-use sandboxes of runsc, each with a kernel of its own that is no Linux.

    service --- runsc (other uid, own namespaces) --- gVisor's kernel --- init, program      one jail
                                                 +--- file server (read-only root)

It proves itself whenever it starts (see selftest) and makes no jail before that. It is down when jails cannot be
made any more, and then tries again.
"""

import asyncio
import os
from dataclasses import asdict
from pathlib import Path

import structlog

from services.sandbox import profiles
from services.sandbox.adapters.gvisor import bundle, place, runsc, selftest
from services.sandbox.adapters.gvisor.jail import GvisorJail
from services.sandbox.adapters.gvisor.pool import Pool
from services.sandbox.adapters.gvisor.runsc import Runsc
from services.sandbox.adapters.ns import cgroups, explain
from services.sandbox.adapters.ns.cgroups import Cgroups
from services.sandbox.core.limits import Limits
from services.sandbox.errors import SandboxUnavailable, SessionsNotSupported
from services.sandbox.ports import STARTING, SessionJail, Strength, Warm
from services.sandbox.profiles import Profile

log = structlog.get_logger(__name__)

RESTARTS = "the engine restarts"
RESTART_AFTER_S = 0.5  # When it was fit for use and ended.
RETRY_AFTER_S = 5.0  # When it was not fit for use: something must be mended first.
NOT_INSTALLED = (
    "runsc is not installed; run: make gvisor, or install gVisor and name it in OLLAMESH_SANDBOX_RUNSC"
)


class GvisorJails:
    """The port `Jails`."""

    engine = "gvisor"

    def __init__(self, folder: Path, *, runsc: Path | None, usual: Limits, warm_count: int) -> None:
        """Make jails of the profile in `folder`, by `runsc`, or by that in PATH."""
        self.profile = Profile(name=folder.name)
        self._folder = folder
        self._runsc = runsc
        self._usual = usual
        self._warm_count = warm_count
        self._pool: Pool | None = None
        self.problem: str | None = STARTING
        self.strength = Strength(enforced_limits=(), weaknesses=())

    @property
    def warm(self) -> Warm:
        count = 0 if self._pool is None else self._pool.warm_count
        return Warm(count=count, wanted_count=self._warm_count)

    async def take(self, limits: Limits) -> GvisorJail:
        if self._pool is None or self.problem is not None:
            raise SandboxUnavailable(problem=self.problem)
        return await self._pool.take(limits)

    async def open(self, limits: Limits) -> SessionJail:  # noqa: ARG002 -- of the port.
        raise SessionsNotSupported(profile=self.profile.name)

    async def run(self) -> None:
        while True:
            self.problem = await self._attempt()
            log.error("engine_down", engine=self.engine, profile=self.profile.name, problem=self.problem)
            await asyncio.sleep(RESTART_AFTER_S if self.problem == RESTARTS else RETRY_AFTER_S)

    async def _attempt(self) -> str:
        """Be of use for as long as possible. Return what is the matter now."""
        if (program := runsc.find(self._runsc)) is None:
            return NOT_INSTALLED
        if (version := await asyncio.to_thread(runsc.version, program)) is None:
            return "runsc does not run on this machine"
        if (problem := explain.root_problem(self._folder)) is not None:
            return problem
        try:
            self.profile = profiles.read(self._folder)
        except (OSError, ValueError) as error:
            log.exception("profile_unreadable", folder=self._folder.name)
            return profiles.problem(error)
        await asyncio.to_thread(place.sweep)
        found = await asyncio.to_thread(cgroups.find)
        problem = await self._live(program, version, found)
        if problem == RESTARTS or not found.controllers:
            return problem
        return await self._live(
            program, version, Cgroups(())
        )  # Perhaps it is they that this machine refuses.

    async def _live(self, program: Path, version: str, limiters: Cgroups) -> str:
        """One pool, from its start to its end. Return what is the matter now."""
        try:
            with place.opened() as folder:
                maker = self._maker(program, folder)
                async with Pool.over(
                    maker, folder, limiters, usual=self._usual, warm_count=self._warm_count
                ) as pool:
                    if (problem := await self._flaw(pool)) is not None:
                        return problem
                    self.strength = _strength(limiters.controllers, version)
                    await self._serve(pool)
                    return RESTARTS
        except OSError:
            log.exception("engine_not_started", engine=self.engine)
            return "the temporary folder cannot be written to"
        finally:
            await asyncio.to_thread(limiters.close)

    def _maker(self, program: Path, folder: Path) -> Runsc:
        root = (self._folder / "root").resolve()
        shown = root if os.geteuid() != 0 or runsc.open_to_all(root) else folder / "root"
        if shown != root:
            shown.mkdir()
        bundle.write(folder / "bundle", self.profile, shown, files_bytes=self._usual.files_bytes)
        return Runsc(program=program.resolve(), bundle=folder / "bundle", root=root, place=shown)

    async def _flaw(self, pool: Pool) -> str | None:
        """Why this engine must not be used; None if it may."""
        stamp = str((self._folder / "stamp").absolute())
        variables = [name for name in os.environ if name not in bundle.environment(self.profile)]
        try:
            found = await selftest.breaches(pool.build, host_file=stamp, environment=variables)
        except SandboxUnavailable:
            return "runsc makes no jail on this machine; the service's log says what it said"
        return f"the engine failed its self-test: a program {', '.join(found)}" if found else None

    async def _serve(self, pool: Pool) -> None:
        pool.keep_warm()
        self._pool, self.problem = pool, None
        log.info("engine_up", engine=self.engine, profile=self.profile.name, strength=asdict(self.strength))
        try:
            await asyncio.shield(pool.failed)
        finally:
            self._pool, self.problem = None, RESTARTS


def _strength(controllers: frozenset[str], version: str) -> Strength:
    weaknesses = [
        f"gVisor's kernel (runsc {version}) stands between programs and the host's: a hole in both is a way out.",
        "Processes, memory and processor time are measured every 20 ms: a program may overshoot in between.",
        "The number of files is bounded by the memory that they take, and by nothing else.",
    ]
    if "memory" not in controllers:
        weaknesses.append(
            "gVisor's own memory is measured every 100 ms instead of limited: no control group can be made here."
        )
    if "cpu" not in controllers:
        weaknesses.append(
            "A program with several threads may use every processor: no control group can be made here."
        )
    limited = ["files_bytes", *(["memory_bytes"] if "memory" in controllers else [])]
    return Strength(tuple(limited), tuple(weaknesses))
