"""How often what died is started again: quickly at first, then ever more slowly, and not without end."""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """Quick at first, because most crashes are single; never faster than a person could read."""

    first_delay_s: float = 0.2
    longest_delay_s: float = 5.0
    restarts_max: int = 5
    window_s: float = 60.0


class RestartBudget:
    """Within any `window_s`, one thing is started again at most `restarts_max` times."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._deaths_s: deque[float] = deque(maxlen=policy.restarts_max + 1)

    def died(self, now_s: float) -> float | None:
        """Return how long to wait before the next start; None if it died too often."""
        self._forget(now_s)
        self._deaths_s.append(now_s)
        count = len(self._deaths_s)
        if count > self._policy.restarts_max:
            return None
        return min(self._policy.first_delay_s * 2.0 ** (count - 1), self._policy.longest_delay_s)

    def is_spent(self, now_s: float) -> bool:
        """Return whether one more death would be one too many."""
        self._forget(now_s)
        return len(self._deaths_s) >= self._policy.restarts_max

    def _forget(self, now_s: float) -> None:
        while self._deaths_s and self._deaths_s[0] <= now_s - self._policy.window_s:
            self._deaths_s.popleft()
