"""One session of the sandbox for each thread: what a program leaves there, the next one finds, whichever run it is of.

A session is made at the first call and remembered with its thread, so that every replica of the agent finds it. It ends
by its idleness, with its replica of the sandbox, with its thread, or to make room for the same user's next one. The
thread then gets a new one, and the model is told that variables and files are gone. Where no session can be had, a
program still runs, in a jail of its own.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from weakref import WeakValueDictionary

import grpc.aio
import structlog
from ollamesh.sandbox.v1 import sandbox_service_pb2 as pb

from services.agent.adapters.sandboxes import AWAY, Sandbox, Sandboxes, refused
from services.agent.adapters.thread_sessions import Begun, Place, ThreadSessions
from services.agent.core.ids import Owner, ThreadId
from services.agent.patience import patiently
from services.agent.ports import CallContext
from services.common.errors import StoreFailure
from services.common.grpc.client import bearer

log = structlog.get_logger(__name__)
Result = TypeVar("Result")

RPC_S_MAX = 15.0  # A session has 10 s to be made.
STORE_S_MAX = 30.0  # Longer than any lease that a run can have and still go on.
END_S_MAX = 3.0
PLACES_MAX = 3  # That one call tries.
BUSY_WAIT_S, BUSY_WAIT_S_MAX = 0.05, 1.0
GONE = "[The Python session of this conversation was lost: variables and files from before are gone.]"
ALONE = "[No Python session could be had ({}): variables and files of this call are not kept.]"
NO_THREAD = "The conversation was deleted."  # Why a call of a tool that needs its session failed.

BUSY = frozenset({"SESSION_BUSY", "QUEUE_FULL", "TOO_MANY_EXECUTIONS"})  # Says when to come again.
# There are none here, or no more of them: see what the sandbox says of each. INVALID_REQUEST: no memory for any.
WITHOUT = frozenset(
    {"SESSIONS_NOT_SUPPORTED", "TOO_MANY_SESSIONS", "QUEUE_FULL", "INVALID_REQUEST", "REQUEST_ID_REUSED"}
)


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a call acts."""

    sandbox: Sandbox
    session_id: str  # Empty: in a jail of its own.
    note: str = ""  # For the model.


class SandboxSessions:
    """Implements ports.Sessions."""

    def __init__(self, sandboxes: Sandboxes, store: ThreadSessions) -> None:
        self._sandboxes, self._store = sandboxes, store
        self._locks: WeakValueDictionary[ThreadId, asyncio.Lock] = WeakValueDictionary()

    def alone(self, thread_id: ThreadId) -> asyncio.Lock:
        """Held by one call of the thread after the other: a session does one thing at a time."""
        return self._locks.setdefault(thread_id, asyncio.Lock())

    async def begin(self, context: CallContext) -> Begun:
        """Write down that a call is begun that must not be made twice. Raises ThreadNotFound."""
        return await self._patiently(lambda: self._store.begin(context.owner, context.thread_id, context.key))

    async def find(self, context: CallContext) -> Place | None:
        """The session that the thread has had last."""
        return await self._patiently(partial(self._store.find, context.owner, context.thread_id))

    def sandbox(self, context: CallContext, place: Place | None) -> Sandbox:
        """Where to ask for what was begun."""
        found = None if place is None else self._sandboxes.at(place.target)
        return found or self._sandboxes.of(context.owner)[0]

    async def lives(self, context: CallContext, place: Place) -> bool:
        """Whether a session is still there."""
        try:
            await self.sandbox(context, place).stub.GetSession(
                pb.GetSessionRequest(session_id=place.session_id),
                timeout=RPC_S_MAX,
                metadata=bearer(context.token),
            )
        except grpc.aio.AioRpcError as error:
            if refused(error).reason == "SESSION_NOT_FOUND":
                return False
            raise
        return True

    async def using(
        self, context: CallContext, place: Place | None, act: Callable[[Seat], Awaitable[Result]]
    ) -> tuple[Seat, Result]:
        """What `act` returns in the thread's session, and where that was: a new session if the one at `place` is gone.

        Raises AioRpcError for what is refused otherwise, and ThreadNotFound. Who is busy is asked again, without an
        end: the caller has a deadline.
        """
        sandbox = None if place is None else self._sandboxes.at(place.target)
        seat = None if sandbox is None or place is None else Seat(sandbox, place.session_id)
        for tries_left in reversed(range(PLACES_MAX)):
            tried = seat or await self._opened(context, lost=place)
            try:
                return tried, await _when_free(act, tried)
            except grpc.aio.AioRpcError as error:
                if not tries_left or not self._is_lost(error):
                    raise
            seat, place = None, Place(tried.sandbox.target, tried.session_id)
        raise AssertionError("the last try returns or raises")

    async def end(self, owner: Owner, thread_id: ThreadId, *, token: str) -> None:
        try:
            place = await self._store.find(owner, thread_id)
        except StoreFailure:
            return  # The thread is not forgotten either.
        if place is None or (sandbox := self._sandboxes.at(place.target)) is None:
            return
        try:
            await self._delete(sandbox, place.session_id, token=token)
        except grpc.aio.AioRpcError as error:
            log.warning("session_left_to_its_idleness", reason=refused(error).reason)

    def _is_lost(self, error: grpc.aio.AioRpcError) -> bool:
        reason = refused(error).reason
        return reason == "SESSION_NOT_FOUND" or (reason in AWAY and self._sandboxes.count > 1)

    async def _opened(self, context: CallContext, *, lost: Place | None) -> Seat:
        """A new session for the thread, or none where there can be none. Raises AioRpcError, ThreadNotFound."""
        failure: grpc.aio.AioRpcError | None = None
        for sandbox in self._sandboxes.of(context.owner):
            try:
                session_id = await self._created(sandbox, context)
            except grpc.aio.AioRpcError as error:
                refusal = refused(error)
                if refusal.reason in WITHOUT:
                    return Seat(sandbox, "", ALONE.format(refusal.message))
                if refusal.reason not in AWAY:
                    raise
                failure = error
                continue
            place = Place(sandbox.target, session_id)
            await self._patiently(partial(self._store.keep, context.owner, context.thread_id, place))
            return Seat(sandbox, session_id, GONE if lost not in {None, place} else "")
        assert failure is not None, "there is a sandbox"
        raise failure

    async def _created(self, sandbox: Sandbox, context: CallContext) -> str:
        # Named after the thread, so that whoever makes it again finds it, and not changed by any setting.
        request = pb.CreateSessionRequest(request_id=f"thread:{context.thread_id}")

        async def create() -> str:
            made = await sandbox.stub.CreateSession(
                request, timeout=RPC_S_MAX, metadata=bearer(context.token)
            )
            return made.session.session_id

        try:
            return await create()
        except grpc.aio.AioRpcError as error:
            if refused(error).reason != "TOO_MANY_SESSIONS" or not await self._made_room(sandbox, context):
                raise
        return await create()

    async def _made_room(self, sandbox: Sandbox, context: CallContext) -> bool:
        """End the session that its thread, of the same user, has not used for longest, if that does not use it now."""
        list_all = partial(sandbox.stub.ListSessions, timeout=RPC_S_MAX, metadata=bearer(context.token))
        listed = await list_all(pb.ListSessionsRequest(page_size=100))
        idle = {each.session_id: each for each in listed.sessions if each.state == pb.SESSION_STATE_IDLE}
        unused = await self._patiently(partial(self._store.unused, context.owner, sandbox.target, idle))
        if not unused:
            return False
        oldest = min(unused, key=lambda session_id: idle[session_id].expire_time.ToNanoseconds())
        await self._delete(sandbox, oldest, token=context.token)
        return True

    async def _delete(self, sandbox: Sandbox, session_id: str, *, token: str) -> None:
        request = pb.DeleteSessionRequest(session_id=session_id)
        await sandbox.stub.DeleteSession(request, timeout=END_S_MAX, metadata=bearer(token))

    async def _patiently(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        return await patiently(attempt, for_s=STORE_S_MAX)


async def _when_free(act: Callable[[Seat], Awaitable[Result]], seat: Seat) -> Result:
    """Ask again who is busy, at longer and longer intervals."""
    wait_s = BUSY_WAIT_S
    while True:
        try:
            return await act(seat)
        except grpc.aio.AioRpcError as error:
            if refused(error).reason not in BUSY:
                raise
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, BUSY_WAIT_S_MAX)
