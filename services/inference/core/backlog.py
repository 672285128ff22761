"""Entries that wait to be written: bounded, in order, each of them written, lost or still here.

    add ──▶ waiting ──take──▶ under way ──written──▶ gone
               ▲                 │
               └────put_back─────┘

When there is no room, the oldest that wait are lost: they were waiting for a store that has been away for long, and
whoever asks for usage asks for what is recent.
"""

from collections import deque
from collections.abc import Sequence
from itertools import islice

from services.inference.core.accounting import Entry

FIRST_DELAY_S = 0.25
LONGEST_DELAY_S = 5.0


class Backlog:
    """Holds up to `entries_max`, those that are under way included."""

    def __init__(self, *, entries_max: int) -> None:
        assert entries_max > 0
        self._entries_max = entries_max
        self._waiting: deque[Entry] = deque()
        self._under_way: Sequence[Entry] = ()
        self._failed_count = 0  # In a row.

    def __len__(self) -> int:
        return len(self._waiting) + len(self._under_way)

    @property
    def waiting_count(self) -> int:
        return len(self._waiting)

    @property
    def delay_s(self) -> float:
        """How long to wait before the next try, after those that failed in a row."""
        return (
            min(FIRST_DELAY_S * 2 ** (self._failed_count - 1), LONGEST_DELAY_S) if self._failed_count else 0.0
        )

    def add(self, entry: Entry) -> int:
        """Take an entry; return how many were lost for it."""
        self._waiting.append(entry)
        return self._make_room()

    def take(self, count_max: int) -> Sequence[Entry]:
        """Return the oldest, which are under way from now on."""
        assert not self._under_way, "one batch at a time"
        self._under_way = tuple(islice(self._waiting, count_max))
        for _ in self._under_way:
            self._waiting.popleft()
        return self._under_way

    def written(self) -> None:
        """What was under way need not be kept any more."""
        self._under_way, self._failed_count = (), 0

    def put_back(self) -> None:
        """What was under way was not written, or nobody knows."""
        self._waiting.extendleft(reversed(self._under_way))
        self._under_way = ()
        self._failed_count = min(self._failed_count + 1, 32)

    def _make_room(self) -> int:
        lost_count = 0
        while len(self) > self._entries_max and self._waiting:
            self._waiting.popleft()
            lost_count += 1
        return lost_count
