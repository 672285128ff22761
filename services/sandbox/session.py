"""One session: its life, its jail, and who uses either.

    live()   opens the jail, waits for its end, opens the next one; until the session ends
    begin()  gives an execution its turn: the session is BUSY until the turn is over
    files()  of the jail that there is, also while something runs

The loop is the lock: what changes the state does not await. The end of the jail is seen in two places, here and by the
execution that was in it, in either order; `lose` takes the first and knows the second.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import structlog

from services.common.errors import MeshError
from services.sandbox.core.limits import Limits
from services.sandbox.core.owners import Owner
from services.sandbox.core.pages import Position
from services.sandbox.core.sessions import Aftermath, Cause, Event, Life, Loss, loss
from services.sandbox.errors import (
    QueueFull,
    SandboxUnavailable,
    SessionBusy,
    SessionNotFound,
    SessionsNotSupported,
)
from services.sandbox.ports import Files, Jails, SessionJail

log = structlog.get_logger(__name__)

OPEN_WITHIN_S = 10.0  # An engine that has ended is back in less than one.
RETRY_AFTER_S = 0.2
FILE_USES_MAX = 8  # At once; each may hold a part of a file in memory.


class Place(Protocol):
    """The memory that a session needs."""

    async def held(self) -> None:
        """Return when it is set aside."""
        ...

    def give_back(self) -> None:
        """Let others have it. Idempotent."""
        ...


class Told(Protocol):
    """Learns what becomes of sessions."""

    def created(self, session: "Session") -> None: ...

    def restarted(self, session: "Session", why: Loss) -> None:
        """Its interpreter was lost, and it has a new one."""
        ...

    def ended(self, session: "Session") -> None:
        """Nothing of it is left; `session.cause` says why."""
        ...


class Session:
    def __init__(
        self,
        position: Position,
        owner: Owner,
        jails: Sequence[Jails],
        limits: Limits,
        *,
        life: Life,
        told: Told,
    ) -> None:
        """Make one that has no jail yet, and will have it from the first of `jails` that keeps sessions."""
        self.position = position
        self.owner = owner
        self.limits = limits
        self.life = life
        self.cause: Cause | None = None  # Why it has ended.
        self._candidates = list(jails)
        self._told = told
        self._jail: SessionJail | None = None
        self._turn: Turn | None = None
        self._killed: SessionJail | None = None  # If it ends now, that is our doing.
        self._file_use_count = 0
        self._jail_count = 0  # That it has had.
        self._failure: MeshError | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()

    @property
    def session_id(self) -> str:
        return self.position.id

    @property
    def engine(self) -> str:
        return self._candidates[0].engine

    @property
    def profile(self) -> str:
        return self._candidates[0].profile.name

    @property
    def was_opened(self) -> bool:
        return self._jail_count > 0

    @property
    def is_known(self) -> bool:
        """Whether its owner may know of it: it was opened, and has not ended."""
        return self.was_opened and not self.life.is_over

    def lives(self, task: asyncio.Task[None]) -> None:
        """`task` runs `live`."""
        self._task = task

    async def live(self, place: Place) -> None:
        """From its first jail to its end. Nothing of it is left afterwards, and `place` is given back."""
        self._arm()
        try:
            await self._wait_for(place)
            why: Loss | None = None
            while (jail := await self._open()) is not None:
                self._jail, self._jail_count = jail, self._jail_count + 1
                self.on(Event.OPENED)
                if why is None:
                    self._told.created(self)
                else:
                    self._told.restarted(self, why)
                why = loss(await jail.ended(), killed=jail is self._killed)
                self.lose(jail)
        finally:
            if self._jail is not None:
                self._jail.kill()
            place.give_back()

    async def _wait_for(self, place: Place) -> None:
        """Give up if it is not held in time: to wait for others' sessions to end would take minutes."""
        try:
            async with asyncio.timeout(OPEN_WITHIN_S):
                await place.held()
        except TimeoutError:
            self._give_up(QueueFull())

    async def opened(self) -> None:
        """Return when it can be used. Raises what keeps it from being opened."""
        while not self.was_opened and not self.life.is_over:
            await self._changed.wait()
        if not self.is_known:
            raise self._failure or SessionNotFound

    def begin(self, on_closed: Callable[[], object]) -> "Turn":
        """An execution's turn. `on_closed` is called if the session ends before. Raises SessionBusy or SessionNotFound."""
        if self.life.is_over:
            raise SessionNotFound
        if self._jail is None or not self._jail.alive or not self.on(Event.BEGAN):
            raise SessionBusy
        self._turn = Turn(self, self._jail, self._jail_count, on_closed)
        return self._turn

    @contextmanager
    def files(self) -> Iterator[Files]:
        """The files of the jail that it has, for one use. Raises SessionBusy or SessionNotFound."""
        if self.life.is_over:
            raise SessionNotFound
        if self._jail is None or self._file_use_count >= FILE_USES_MAX:
            raise SessionBusy
        self._file_use_count += 1
        self.touch()
        try:
            yield self._jail.files
        except SandboxUnavailable:
            if self.life.is_over:
                raise SessionNotFound from None
            raise
        finally:
            self._file_use_count -= 1
            self.touch()

    def close(self, cause: Cause) -> None:
        """End it, and what runs in it. Idempotent; over when `gone` returns."""
        if not self.on(Event.CLOSED):
            return
        self.cause = cause
        if self._turn is not None:
            self._turn.on_closed()
        if self._jail is not None:
            self._jail.kill()
        elif self._task is not None:
            self._task.cancel()

    async def gone(self) -> None:
        """Return when nothing of it is left."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def on(self, event: Event) -> bool:
        """Tell it what happened. Return whether that changed anything."""
        is_new = self.life.on(event, _now_s())
        if is_new:
            self._arm()
            self._tell()
        return is_new

    def touch(self) -> None:
        """It is in use."""
        self.life.touch(_now_s())

    def stops(self, jail: SessionJail) -> None:
        """What runs in `jail` is to end, and perhaps the jail with it."""
        if jail.alive:  # Else something else ended it.
            self._killed = jail

    def finish(self, turn: "Turn") -> bool:
        """A turn is over, and its interpreter goes on. Return whether the session does. Idempotent."""
        if self._turn is not turn:
            return False
        self._turn = self._killed = None
        return self.on(Event.FINISHED)

    def lose(self, jail: SessionJail) -> None:
        """`jail` is gone, whoever noticed it first."""
        if self._jail is jail:
            self._jail = self._turn = None
            self.on(Event.LOST)

    async def replaced(self, jail_count: int) -> None:
        """Return when it has a newer jail than that one, or has ended."""
        while self._jail_count == jail_count and not self.life.is_over:
            await self._changed.wait()

    async def _open(self) -> SessionJail | None:
        """A jail; None once the session has ended, as it does if there is none to be had in time."""
        until_s = _now_s() + OPEN_WITHIN_S
        while not self.life.is_over:
            try:
                if not self.life.may_restart:
                    raise SandboxUnavailable(problem="its jails end again and again")
                async with asyncio.timeout_at(until_s):
                    return await self._candidates[0].open(self.limits)
            except TimeoutError:
                self._give_up(SandboxUnavailable(problem="a jail took too long to build"))
            except SessionsNotSupported as error:
                if len(self._candidates) > 1:
                    del self._candidates[0]
                else:
                    self._give_up(error)
            except SandboxUnavailable as error:
                # Its creator would rather know at once; who has one already would rather keep it.
                if not self.was_opened or not self.life.may_restart or _now_s() + RETRY_AFTER_S >= until_s:
                    self._give_up(error)
                else:
                    await asyncio.sleep(RETRY_AFTER_S)
        return None

    def _give_up(self, error: MeshError) -> None:
        log.warning("session_lost", session_id=self.session_id, reason=error.reason, **error.facts)
        self._failure, self.cause = error, Cause.LOST
        self.on(Event.CLOSED)

    def _arm(self) -> None:
        """Have the end of its time noticed."""
        if self._timer is not None:
            self._timer.cancel()
        if not self.life.is_over:
            self._timer = asyncio.get_running_loop().call_at(self.life.expires_s, self._expire)

    def _expire(self) -> None:
        if (cause := self.life.expired(_now_s())) is not None:
            self.close(cause)
        else:
            self._arm()  # It was used meanwhile.

    def _tell(self) -> None:
        """Wake all who wait for a change, once."""
        self._changed.set()
        self._changed = asyncio.Event()


class Turn:
    """What an execution has of a session: its jail, until the turn is over."""

    def __init__(
        self, session: Session, jail: SessionJail, jail_count: int, on_closed: Callable[[], object]
    ) -> None:
        self.jail = jail
        self.on_closed = on_closed
        self._session = session
        self._jail_count = jail_count

    def tell_loss(self) -> bool:
        """Return whether the last interpreter was lost and nobody was told of it. Now somebody is."""
        return self._session.life.tell_loss()

    def interrupt(self) -> None:
        """Have what runs end, if it heeds that."""
        self._session.stops(self.jail)
        self.jail.interrupt()

    def kill(self) -> None:
        """End what runs at once, and the interpreter with it. Another one is opened."""
        self._session.stops(self.jail)
        self.jail.kill()

    def leave(self) -> None:
        """Nothing ran. Idempotent, and nothing after `over` or `abandon`."""
        self._session.finish(self)

    def abandon(self) -> None:
        """End what runs without waiting for its end. The loss is still to be told."""
        self.kill()
        self._session.lose(self.jail)

    async def over(self) -> Aftermath:
        """What ran has ended. Return what became of the session, once it is restarted if it has to be."""
        session = self._session
        if self.jail.alive and session.finish(self):
            return Aftermath()
        session.lose(self.jail)
        session.life.tell_loss()
        await session.replaced(self._jail_count)
        is_ended = session.life.is_over
        return Aftermath(restarted=not is_ended, files_lost=True, ended=is_ended)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
