"""Bounds how often an event is logged, and tells how often it was not.

When a store is away, every call says so, a thousand times a second: then the log costs more than the calls do, and hides
what else happens. So each event has its own budget, and all of them together have one. What was left out is counted:
the next line of the event says how many there were before it, and if there is none soon, a line of its own does.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from services.common.logs.counts import COUNTS, LogCounts

EVENT_BURST, EVENT_PER_S = 100, 5.0
ALL_BURST, ALL_PER_S = 2000, 500.0
EVENTS_MAX = 512  # That have budgets of their own. Ours are some hundred and thirty.
TELL_AFTER_S = 10.0
LEFT_OUT = "left_out_count"
SUMMARY = "log_lines_left_out"


@dataclass(slots=True)
class _Budget:
    tokens: float
    at_s: float
    left_out_count: int = 0

    def take(self, now_s: float, burst: float, per_s: float) -> bool:
        self.tokens = min(burst, self.tokens + (now_s - self.at_s) * per_s)
        self.at_s = now_s
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class FloodFilter(logging.Filter):
    """For a handler, which holds its lock meanwhile."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, counts: LogCounts = COUNTS) -> None:
        super().__init__()
        self._clock, self._counts = clock, counts
        self._all = _Budget(ALL_BURST, clock())
        self._events: OrderedDict[tuple[str, str], _Budget] = OrderedDict()  # The one used last is the last.
        self._told_at_s = clock()

    def filter(self, record: logging.LogRecord) -> bool:
        now_s = self._clock()
        budget = self._budget(record, now_s)
        if not budget.take(now_s, EVENT_BURST, EVENT_PER_S):
            budget.left_out_count += 1
            self._counts.repeated_count += 1
            return False
        if not self._all.take(now_s, ALL_BURST, ALL_PER_S):
            budget.left_out_count += 1
            self._counts.flood_count += 1
            return False
        if budget.left_out_count:
            setattr(record, LEFT_OUT, budget.left_out_count)
            budget.left_out_count = 0
        return True

    def untold(self) -> dict[str, int]:
        """Return how many lines of which events were left out, once in a while; nothing in between."""
        now_s = self._clock()
        if now_s - self._told_at_s < TELL_AFTER_S:
            return {}
        self._told_at_s = now_s
        return self.rest()

    def rest(self) -> dict[str, int]:
        """Return what was left out and not told yet."""
        found: dict[str, int] = {}
        for (_, event), budget in self._events.items():
            if budget.left_out_count:
                found[event] = found.get(event, 0) + budget.left_out_count
                budget.left_out_count = 0
        return found

    def _budget(self, record: logging.LogRecord, now_s: float) -> _Budget:
        key = record.name, event_of(record)
        budget = self._events.get(key)
        if budget is None:
            if len(self._events) >= EVENTS_MAX:
                self._events.popitem(last=False)
            budget = self._events[key] = _Budget(EVENT_BURST, now_s)
        self._events.move_to_end(key)
        return budget


def event_of(record: logging.LogRecord) -> str:
    """What repeats: the constant of an event of ours, the text of a library before values are put into it."""
    if isinstance(record.msg, dict):
        return str(record.msg.get("event", ""))
    return str(record.msg)[:200]
