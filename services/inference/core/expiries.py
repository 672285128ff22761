"""When the next of many deadlines passes: a heap that forgets what is no longer asked for."""

from collections.abc import Callable
from heapq import heapify, heappop, heappush

_SLACK_COUNT = 64


class Expiries:
    """Deadlines by ticket. A ticket that no longer waits stays in the heap until it is in the way."""

    def __init__(self, waits: Callable[[int], bool]) -> None:
        self._waits = waits
        self._heap: list[tuple[float, int]] = []
        self._compact_above = _SLACK_COUNT

    def add(self, ticket: int, expires_at_s: float) -> None:
        if len(self._heap) >= self._compact_above:
            # Or jobs that start at once would pile up here until their distant deadlines.
            self._heap = [entry for entry in self._heap if self._waits(entry[1])]
            heapify(self._heap)
            self._compact_above = 2 * len(self._heap) + _SLACK_COUNT
        heappush(self._heap, (expires_at_s, ticket))

    def next_s(self) -> float | None:
        """Return the first deadline of a ticket that still waits."""
        while self._heap and not self._waits(self._heap[0][1]):
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now_s: float) -> int | None:
        """Take out a waiting ticket whose deadline has passed; the caller sees to it that it waits no longer.

        One at a time, for a ticket that came back after a failure is in the heap twice.
        """
        at_s = self.next_s()
        return heappop(self._heap)[1] if at_s is not None and at_s <= now_s else None
