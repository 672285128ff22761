"""What rates need from whoever counts."""

from typing import Protocol

from services.auth.core.rates import Window


class CounterAway(Exception):
    """It does not answer, or is not being asked."""


class Counter(Protocol):
    """Counts requests in moving windows."""

    async def hit(self, key: str, limit: Window) -> float | None:
        """Count a request. None: it fits. Else in how many seconds the next one does. Raises CounterAway."""
        ...
