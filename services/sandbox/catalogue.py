"""Which engine serves which profile."""

import asyncio
from collections.abc import Sequence

from services.sandbox.errors import EngineUnknown, ProfileUnknown, SandboxUnavailable
from services.sandbox.ports import Jails
from services.sandbox.profiles import USUAL


class Catalogue:
    """All that make jails, in the order in which they are chosen."""

    def __init__(self, every: Sequence[Jails]) -> None:
        self.every = tuple(every)

    @property
    def problem(self) -> str | None:
        """Why nothing can be run at all; None if something can."""
        problems = [f"{jails.engine}, {jails.profile.name}: {jails.problem}" for jails in self.every]
        return None if any(jails.problem is None for jails in self.every) else "; ".join(problems)

    def find(self, *, engine: str, profile: str) -> Jails:
        """The first that fits and works. Raises what `fitting` does."""
        return self.fitting(engine=engine, profile=profile)[0]

    def fitting(self, *, engine: str, profile: str) -> Sequence[Jails]:
        """Those that fit and work, one at least; "" means any engine, or the usual profile.

        Raises ProfileUnknown, EngineUnknown, or SandboxUnavailable if none of those that fit work.
        """
        profile = profile or USUAL
        fitting = [jails for jails in self.every if jails.profile.name == profile]
        if not fitting:
            raise ProfileUnknown(profile=profile)
        if engine and not (fitting := [jails for jails in fitting if jails.engine == engine]):
            raise EngineUnknown(engine=engine)
        if working := [jails for jails in fitting if jails.problem is None]:
            return working
        raise SandboxUnavailable(problem=fitting[0].problem)

    async def run(self) -> None:
        """Until cancelled; then nothing of theirs is left."""
        async with asyncio.TaskGroup() as tasks:
            for jails in self.every:
                tasks.create_task(jails.run(), name=f"{jails.engine} {jails.profile.name}")
