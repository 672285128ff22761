"""What is remembered of the sandbox sessions of threads, in memory."""

import time
from collections.abc import Collection
from dataclasses import dataclass, field

from services.agent.adapters.thread_sessions import Begun, Place
from services.agent.core.ids import Owner, ThreadId


@dataclass(slots=True)
class FakeThreadSessions:
    """Implements ThreadSessions. Every thread exists."""

    places: dict[tuple[Owner, ThreadId], Place] = field(default_factory=dict)
    begun_s: dict[str, float] = field(default_factory=dict)
    busy: set[ThreadId] = field(default_factory=set)  # A run works on them.

    async def begin(self, owner: Owner, thread_id: ThreadId, key: str) -> Begun:
        before_s = self.begun_s.get(key)
        self.begun_s.setdefault(key, time.monotonic())
        ago_s = None if before_s is None else time.monotonic() - before_s
        return Begun(self.places.get((owner, thread_id)), ago_s)

    async def find(self, owner: Owner, thread_id: ThreadId) -> Place | None:
        return self.places.get((owner, thread_id))

    async def keep(self, owner: Owner, thread_id: ThreadId, place: Place) -> None:
        self.places[owner, thread_id] = place

    async def unused(self, owner: Owner, target: str, session_ids: Collection[str]) -> Collection[str]:
        return {
            place.session_id
            for (whose, thread_id), place in self.places.items()
            if whose == owner and place.target == target and thread_id not in self.busy
        } & set(session_ids)
