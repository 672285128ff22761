"""All sessions of this replica: whose they are, how many there may be, and the memory that they hold.

A session is found by its owner and its id together, so that what belongs to somebody else takes as long to be missed
as what does not exist.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.sandbox.catalogue import Catalogue
from services.sandbox.core.limits import Limits
from services.sandbox.core.owners import Owner
from services.sandbox.core.pages import Position, newest
from services.sandbox.core.sessions import Cause, Life
from services.sandbox.errors import (
    QueueFull,
    RequestIdReused,
    SandboxUnavailable,
    SessionNotFound,
    TooManySessions,
)
from services.sandbox.ports import Jails
from services.sandbox.session import Place, Session, Told

IDLE_S_MIN = 1.0  # A wish for less is one for as little as possible.
TOTAL_RETRY_AFTER_S = 30.0  # Sessions last; asking each second would only be noise.


Reserve = Callable[[Owner, int], Place]  # Bytes, to be waited for. Raises what refuses them at once.


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    idle_s: float = 600.0  # Most and usual.
    life_s: float = 3600.0
    per_user_max: int = 4
    total_max: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a caller asks for."""

    profile: str = ""
    engine: str = ""
    limits: Limits
    idle_s: float | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A caller's name for a wish, and the hash of all that it says."""

    request_id: str
    digest: bytes


class Sessions:
    def __init__(
        self, catalogue: Catalogue, settings: SessionSettings, *, reserve: Reserve, told: Told
    ) -> None:
        self.settings = settings
        self._catalogue = catalogue
        self._reserve = reserve
        self._told = told
        self._sessions: dict[tuple[Owner, str], Session] = {}
        self._requested: dict[tuple[Owner, str], tuple[bytes, Session]] = {}
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Until cancelled; then there are no sessions any more."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            await asyncio.Event().wait()

    async def create(self, owner: Owner, wish: Wish, request: Request | None = None) -> Session:
        """Raises RequestIdReused, TooManySessions, QueueFull, and what `Catalogue.fitting` or `Jails.open` do."""
        if request is not None and (known := self._requested.get((owner, request.request_id))) is not None:
            digest, session = known
            if digest != request.digest:
                raise RequestIdReused
        else:
            session = self._begin(owner, wish, request)
        try:
            await session.opened()
        except asyncio.CancelledError:
            if request is None:  # Nobody would know of it.
                session.close(Cause.DELETED)
            raise
        return session

    def get(self, owner: Owner, session_id: str) -> Session:
        """Raises SessionNotFound."""
        session = self._sessions.get((owner, session_id))
        if session is None or not session.is_known:
            raise SessionNotFound
        return session

    def page(
        self, owner: Owner, *, before: Position | None, count_max: int
    ) -> tuple[Sequence[Session], bool]:
        """The owner's newest sessions older than `before`, and whether there are more."""
        own = {each.position: each for each in self._of(owner) if each.is_known}
        found, more = newest(list(own), before=before, count_max=count_max)
        return [own[position] for position in found], more

    async def delete(self, owner: Owner, session_id: str) -> None:
        """End it, if there is one; nothing of it is left afterwards."""
        session = self._sessions.get((owner, session_id))
        if session is not None:
            session.close(Cause.DELETED)
            await session.gone()

    @property
    def count(self) -> int:
        """Those that hold something."""
        return len(self._sessions)

    def _of(self, owner: Owner) -> list[Session]:
        return [session for (whose, _), session in self._sessions.items() if whose == owner]

    def _begin(self, owner: Owner, wish: Wish, request: Request | None) -> Session:
        """A session that is about to open."""
        if self._tasks is None:
            raise SandboxUnavailable(problem="the service is starting")
        jails = self._catalogue.fitting(engine=wish.engine, profile=wish.profile)
        if len(self._of(owner)) >= self.settings.per_user_max:
            raise TooManySessions(sessions_max=self.settings.per_user_max)
        if len(self._sessions) >= self.settings.total_max:
            raise QueueFull(retry_after_s=TOTAL_RETRY_AFTER_S, sessions_max=self.settings.total_max)
        place = self._reserve(owner, wish.limits.memory_bytes)
        session = self._new(owner, wish, jails)
        self._sessions[owner, session.session_id] = session
        if request is not None:
            self._requested[owner, request.request_id] = request.digest, session
        task = self._tasks.create_task(session.live(place), name=f"session {session.session_id}")
        session.lives(task)
        task.add_done_callback(lambda _: self._forget(session, request, place))
        return session

    def _new(self, owner: Owner, wish: Wish, jails: Sequence[Jails]) -> Session:
        position = Position(time.time_ns() // 1000, str(uuid.uuid4()))
        idle_s = self.settings.idle_s
        if wish.idle_s is not None:
            idle_s = min(max(wish.idle_s, IDLE_S_MIN), idle_s)
        now_s = asyncio.get_running_loop().time()
        life = Life(now_s=now_s, idle_s=idle_s, life_s=self.settings.life_s)
        return Session(position, owner, jails, wish.limits, life=life, told=self._told)

    def _forget(self, session: Session, request: Request | None, place: Place) -> None:
        place.give_back()
        session.close(Cause.SHUTDOWN)  # If it has not ended otherwise.
        del self._sessions[session.owner, session.session_id]
        if request is not None:
            del self._requested[session.owner, request.request_id]
        if session.was_opened:
            self._told.ended(session)
