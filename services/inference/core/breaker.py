"""Whether an instance can be trusted with work: a circuit breaker.

    state      event                                  next
    ---------  -------------------------------------  -----------------------------------------------------
    CLOSED     a success                              CLOSED, and failures count from 0 again
    CLOSED     a failure, not yet the last allowed    CLOSED
    CLOSED     a failure, `streak_s` after the last   CLOSED, and it counts as the first
    CLOSED     the last allowed failure in a row,     OPEN, for `open_s`
               or one that says enough by itself
    OPEN       its time has passed                    HALF_OPEN
    OPEN       a success or a failure                 OPEN: of what was sent before, it says nothing new
    HALF_OPEN  `take_probe`                           HALF_OPEN; true for the first only
    HALF_OPEN  a success                              CLOSED, and the next opening is for `open_s` again
    HALF_OPEN  a failure                              OPEN, for twice as long as before, at most `open_max_s`

Work goes to an instance only while CLOSED. Whoever takes the probe must report how it ended.
"""

from enum import Enum
from math import inf

FAILURES_MAX = 3
OPEN_S = 2.0
OPEN_MAX_S = 60.0
STREAK_S = 60.0  # Failures that are further apart have nothing to do with each other.


class BreakerState(Enum):
    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


class Breaker:
    """One instance's. All methods are O(1)."""

    def __init__(
        self,
        *,
        failures_max: int = FAILURES_MAX,
        open_s: float = OPEN_S,
        open_max_s: float = OPEN_MAX_S,
        streak_s: float = STREAK_S,
    ) -> None:
        assert failures_max > 0
        assert 0 < open_s <= open_max_s
        self._failures_max = failures_max
        self._open_s = open_s
        self._open_max_s = open_max_s
        self._streak_s = streak_s
        self._next_open_s = open_s
        self._failure_count = 0  # In a row.
        self._failed_at_s = -inf
        self._opens_until_s: float | None = None  # None while closed.
        self._probing = False

    def state(self, now_s: float) -> BreakerState:
        if self._opens_until_s is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now_s < self._opens_until_s else BreakerState.HALF_OPEN

    def failed(self, now_s: float, *, enough: bool = False, jitter: float = 0.0) -> None:
        """Something that the instance was to do failed through its own fault.

        `enough`: do not wait for more of them. `jitter`: by which fraction to stay
        open for longer, so that not all that opened together are probed together.
        """
        match self.state(now_s):
            case BreakerState.OPEN:
                return
            case BreakerState.HALF_OPEN:
                self._open(now_s, jitter=jitter)
            case BreakerState.CLOSED:
                if now_s - self._failed_at_s > self._streak_s:
                    self._failure_count = 0
                self._failure_count += 1
                self._failed_at_s = now_s
                if enough or self._failure_count >= self._failures_max:
                    self._open(now_s, jitter=jitter)

    def succeeded(self, now_s: float) -> None:
        """Something that the instance was to do went well."""
        if self.state(now_s) is not BreakerState.OPEN:
            self._failure_count = 0
            self._next_open_s = self._open_s
            self._opens_until_s = None
            self._probing = False

    def take_probe(self, now_s: float) -> bool:
        """Return whether the caller may try the instance once: true only while HALF_OPEN, and only once."""
        due = self.state(now_s) is BreakerState.HALF_OPEN and not self._probing
        self._probing = self._probing or due
        return due

    def next_probe_s(self) -> float | None:
        """Return from when on `take_probe` is true; None while closed, and while a probe is under way."""
        return None if self._probing else self._opens_until_s

    def _open(self, now_s: float, *, jitter: float) -> None:
        self._opens_until_s = now_s + self._next_open_s * (1.0 + jitter)
        self._next_open_s = min(2 * self._next_open_s, self._open_max_s)
        self._probing = False
