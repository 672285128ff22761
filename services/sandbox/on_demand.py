"""Starts what makes jails of a profile when the first one is wanted: nobody pays for a profile that nobody uses."""

import asyncio

from services.sandbox.core.limits import Limits
from services.sandbox.errors import SandboxUnavailable
from services.sandbox.ports import STARTING, Jail, Jails, SessionJail, Strength, Warm
from services.sandbox.profiles import Profile

START_WITHIN_S = 60.0
LOOK_EVERY_S = 0.02  # Only while somebody waits for a start, which takes seconds.


class OnDemand:
    """The port `Jails`, of other jails.

    Until it is started, nothing shows whether its engine works. `proof`, of the same engine, does.
    """

    def __init__(self, jails: Jails, described: Profile, *, proof: Jails) -> None:
        self.engine = jails.engine
        self._jails = jails
        self._described = described
        self._proof = proof
        self._wanted = asyncio.Event()

    @property
    def profile(self) -> Profile:
        return self._jails.profile if self._started else self._described

    @property
    def problem(self) -> str | None:
        return self._jails.problem if self._started else self._proof.problem

    @property
    def strength(self) -> Strength:
        return self._jails.strength if self._started else self._proof.strength

    @property
    def warm(self) -> Warm:
        return self._jails.warm if self._started else Warm()  # Nobody has wanted any.

    async def take(self, limits: Limits) -> Jail:
        await self._start()
        return await self._jails.take(limits)

    async def open(self, limits: Limits) -> SessionJail:
        await self._start()
        return await self._jails.open(limits)

    async def run(self) -> None:
        await self._wanted.wait()
        await self._jails.run()

    @property
    def _started(self) -> bool:
        return self._wanted.is_set() and self._jails.problem != STARTING

    async def _start(self) -> None:
        self._wanted.set()
        try:
            async with asyncio.timeout(START_WITHIN_S):
                while self._jails.problem == STARTING:  # noqa: ASYNC110 -- engines say what, and not when.
                    await asyncio.sleep(LOOK_EVERY_S)
        except TimeoutError as error:
            raise SandboxUnavailable(problem=STARTING) from error
