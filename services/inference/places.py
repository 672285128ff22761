"""When those who wait are told their places: at once when a queue forms, and then not too often.

A queue's order is known only by sorting it, and one that is long changes many times a second. So the longer
it is, the more seldom its places are told.
"""

from collections.abc import Iterator

from services.inference.core.scheduler import Place, Scheduler
from services.inference.telemetry import Metrics

EVERY_S = 0.25
_PER_JOB_S = 0.00025  # Keeps the cost of telling within a few per cent of one core.


class Places:
    """Which queues have changed since their places were last told."""

    def __init__(self, scheduler: Scheduler, metrics: Metrics) -> None:
        self._scheduler = scheduler
        self._metrics = metrics
        self._due_s: dict[str, float] = {}  # Models whose queues have changed, and when to tell of it.
        self._told_s: dict[str, float] = {}  # When a queue may be told of again.

    def changed(self, model: str) -> None:
        """A job came to the queue of `model`, or left it."""
        self._due_s.setdefault(model, self._told_s.get(model, 0.0))

    def due(self, now_s: float) -> Iterator[Place]:
        """Yield the places that are to be told now."""
        for model in [model for model, at_s in self._due_s.items() if at_s <= now_s]:
            del self._due_s[model]
            places = self._scheduler.places(model, now_s)
            self._metrics.waiting(model, [place.job for place in places])
            if places:
                self._told_s[model] = now_s + max(EVERY_S, _PER_JOB_S * len(places))
            else:
                self._told_s.pop(model, None)
            yield from places

    def next_s(self) -> float | None:
        """Return when the next places are to be told."""
        return min(self._due_s.values(), default=None)
