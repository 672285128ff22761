"""Which observations of a histogram lead to their traces.

A bucket keeps one exemplar, and Prometheus reads it now and then; to write one takes longer than the observation. So a
bucket's is renewed once a second at most: rare observations, which people look for, all have theirs.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

RENEWED_EVERY_S = 1.0
Trace = Mapping[str, str]


class Observed(Protocol):
    """A histogram, of some labels."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None: ...


class Exemplars:
    """Of one histogram, with all its labels."""

    def __init__(self, buckets: Sequence[float], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._buckets, self._clock = tuple(buckets), clock
        self._fresh_until_s: dict[tuple[Observed, int], float] = {}  # Bounded by the histogram's own series.

    def observe(self, histogram: Observed, amount: float, trace: Callable[[], Trace | None]) -> None:
        """Observe an amount; `trace` says what leads to its trace, if that is wanted now."""
        bucket, now_s = (histogram, bisect_left(self._buckets, amount)), self._clock()
        if self._fresh_until_s.get(bucket, 0.0) > now_s or (found := trace()) is None:
            histogram.observe(amount)
            return
        self._fresh_until_s[bucket] = now_s + RENEWED_EVERY_S
        histogram.observe(amount, exemplar=dict(found))
