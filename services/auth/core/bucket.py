"""How often something may be done: so many at once, and then so many a second."""


class Bucket:
    def __init__(self, *, per_s: float, burst: int) -> None:
        self._per_s, self._burst = per_s, burst
        self._left, self._at_s = float(burst), 0.0

    def take(self, now_s: float) -> float | None:
        """None if it may be done now, which then counts; else how long to wait."""
        self._left = min(self._burst, self._left + max(0.0, now_s - self._at_s) * self._per_s)
        self._at_s = max(self._at_s, now_s)
        if self._left < 1:
            return (1 - self._left) / self._per_s
        self._left -= 1
        return None
