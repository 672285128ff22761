"""Runs as they are watched: from any point on, live or finished, from any replica.

A run that works here is followed in memory; any other is read from the store, at once and then so often
that its events are at most `POLL_MAX_S` old, sooner while they flow. Polling, not LISTEN/NOTIFY: notifying
commits queue behind one lock of the whole database, and every token would be such a commit.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection

from services.agent.core.ids import RunId
from services.agent.feed import Feed
from services.agent.ports import Events, StoredEvent

POLL_MIN_S = 0.05
POLL_MAX_S = 1.0


class Watches:
    """Knows the feeds of the runs that this replica holds. Holds nothing while a watcher is slow."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._feeds: dict[RunId, Feed] = {}  # Bounded by the runs that have places.
        self._watchers: Counter[RunId] = Counter()  # Of runs that end unwatched; bounded by the calls.

    def add(self, run_id: RunId, feed: Feed) -> None:
        """The run is held here from now on."""
        self._feeds[run_id] = feed

    def remove(self, run_id: RunId) -> None:
        """The run has left this replica, ended or not: whoever still waits reads on from the store."""
        self._feeds.pop(run_id).changed.fire()

    def count(self, run_id: RunId) -> Callable[[], None]:
        """Somebody watches a run that ends unwatched, until what is returned is called."""
        self._watchers[run_id] += 1

        def leave() -> None:
            self._watchers[run_id] -= 1
            if not self._watchers[run_id]:
                del self._watchers[run_id]

        return leave

    def counted(self) -> Collection[RunId]:
        """The runs that are watched here, of those that end unwatched."""
        return list(self._watchers)

    async def watch(self, run_id: RunId, *, after_sequence: int) -> AsyncIterator[StoredEvent]:
        """Every event after the given one, until the run has ended. Raises RunNotFound."""
        pause_s = POLL_MIN_S
        while True:
            feed = self._feeds.get(run_id)
            changed = feed.changed.next() if feed else None
            page = feed.after(after_sequence) if feed else None
            if page is None:
                page = await self._events.read(run_id, after_sequence=after_sequence)
            for event in page.events:
                yield event
                after_sequence = event.sequence
            if page.ended and after_sequence >= page.last_sequence:
                return
            if page.events:
                pause_s = POLL_MIN_S
            elif changed is not None:
                await changed.wait()
            else:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, POLL_MAX_S)
