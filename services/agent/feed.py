"""The newest committed events of a run that works here, and a way to be told of the next."""

import asyncio
from collections import deque
from collections.abc import Sequence

from services.agent.ports import EventPage, StoredEvent

KEPT_MAX = 256  # Events a watcher may be behind before it reads from the store.


class Signal:
    """Wakes everybody who waits now."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def next(self) -> asyncio.Event:
        """Set by the next `fire`. Take it before you look, and nothing is missed."""
        return self._next

    def fire(self) -> None:
        self._next.set()
        self._next = asyncio.Event()


class Feed:
    """One run's. The writer never waits: whoever falls behind finds the rest in the store."""

    def __init__(self, *, last_sequence: int = 0) -> None:
        """`last_sequence` is of what others told of the run: that is found in the store."""
        self.changed = Signal()
        self._events: deque[StoredEvent] = deque(maxlen=KEPT_MAX)
        self._last_sequence = last_sequence
        self._ended = False

    def publish(self, events: Sequence[StoredEvent], *, ended: bool) -> None:
        """Show what has been committed."""
        self._events.extend(events)
        self._last_sequence = events[-1].sequence if events else self._last_sequence
        self._ended = ended
        self.changed.fire()

    def after(self, sequence: int) -> EventPage | None:
        """The events after `sequence`, or None if some of them are kept here no longer."""
        missing = self._last_sequence - sequence
        if missing > len(self._events):
            return None
        events = [event for event in self._events if event.sequence > sequence]
        return EventPage(events=events, ended=self._ended, last_sequence=self._last_sequence)
