"""Sessions over jails that do as they are told, and what they tell."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from services.sandbox.catalogue import Catalogue
from services.sandbox.core.limits import Limits
from services.sandbox.core.owners import Owner
from services.sandbox.core.sessions import Loss, State
from services.sandbox.errors import QueueFull
from services.sandbox.ports import Jails
from services.sandbox.session import Session, Turn
from services.sandbox.sessions import Request, Sessions, SessionSettings, Wish
from tests.fakes.fake_jails import FakeJails
from tests.fakes.fake_session_jail import FakeSessionJail

ADA, BOB = Owner("o", "ada"), Owner("o", "bob")
WISH = Wish(limits=Limits())
TIMEOUT_S = 10.0


@dataclass
class Place:
    held_bytes: int
    is_free: bool = True
    is_given_back: bool = False

    async def held(self) -> None:
        await asyncio.sleep(0)
        if not self.is_free:
            await asyncio.Event().wait()

    def give_back(self) -> None:
        self.is_given_back = True


@dataclass
class World:
    """Also what is told, and the memory."""

    jails: FakeJails = field(default_factory=FakeJails)
    places: list[Place] = field(default_factory=list)
    is_full: bool = False
    is_slow: bool = False
    told: list[object] = field(default_factory=list)
    sessions: Sessions = field(init=False)

    def reserve(self, owner: Owner, size_bytes: int) -> Place:
        if self.is_full:
            raise QueueFull
        self.places.append(Place(size_bytes, is_free=not self.is_slow))
        return self.places[-1]

    def created(self, session: Session) -> None:
        self.told.append("created")

    def restarted(self, session: Session, why: Loss) -> None:
        self.told.append(why)

    def ended(self, session: Session) -> None:
        self.told.append(session.cause)

    async def create(self, owner: Owner = ADA, request: Request | None = None) -> Session:
        return await self.sessions.create(owner, WISH, request)

    @property
    def jail(self) -> FakeSessionJail:
        """The newest."""
        return self.jails.opened[-1]

    async def nothing_is_left(self) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while self.sessions.count:
                await asyncio.sleep(0.001)
        assert all(place.is_given_back for place in self.places)
        assert not any(jail.alive for jail in self.jails.opened)


@asynccontextmanager
async def world(*more: Jails, **settings: Any) -> AsyncIterator[World]:
    made = World()
    catalogue = Catalogue([*more, made.jails])
    made.sessions = Sessions(
        catalogue,
        SessionSettings(**settings),
        reserve=made.reserve,
        told=made,
    )
    task = asyncio.create_task(made.sessions.run())
    await asyncio.sleep(0)
    async with asyncio.timeout(TIMEOUT_S):
        yield made
    task.cancel()
    await asyncio.wait([task])


def begin(session: Session, on_closed: object = None) -> Turn:
    return session.begin(on_closed or (lambda: None))  # type: ignore[arg-type]


async def until(session: Session, state: State) -> None:
    while session.life.state is not state:
        await asyncio.sleep(0.001)
