"""What is remembered of the sandbox sessions of threads: the port of sandbox_session.py to its store."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from services.agent.core.ids import Owner, ThreadId


@dataclass(frozen=True, slots=True)
class Place:
    """A session, and the replica of the sandbox that has it."""

    target: str
    session_id: str


@dataclass(frozen=True, slots=True)
class Begun:
    place: Place | None  # None: the thread has had no session.
    begun_s_ago: float | None  # When the same call was begun before; None if it is new.


class ThreadSessions(Protocol):
    """Every method raises StoreFailure when the store does not answer."""

    async def begin(self, owner: Owner, thread_id: ThreadId, key: str) -> Begun:
        """Write down that the call `key` is about to be begun, for whoever makes it again. Raises ThreadNotFound."""
        ...

    async def find(self, owner: Owner, thread_id: ThreadId) -> Place | None: ...

    async def keep(self, owner: Owner, thread_id: ThreadId, place: Place) -> None:
        """The thread's session is there from now on. Raises ThreadNotFound."""
        ...

    async def unused(self, owner: Owner, target: str, session_ids: Collection[str]) -> Collection[str]:
        """Which of the owner's sessions at `target` are of threads that no run works on or waits for."""
        ...
