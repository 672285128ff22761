"""Request rates: what a limit means as a window, and what one replica's share of it is."""

import math
from dataclasses import dataclass

from services.auth.core.quotas import Limits


@dataclass(frozen=True, slots=True)
class Window:
    """So many requests in any so many seconds."""

    count: int
    seconds: int


def window(limits: Limits) -> Window | None:
    """What `requests_per_second` and its burst come to; None if there is no limit.

    As many seconds as the burst takes to come back, whole ones: so the rate is exact, and the burst at least what was
    asked for and less than a second's worth more. A rate below one a second is one request in as many seconds.
    """
    rate = limits.requests_per_second
    if rate is None:
        return None
    if rate == 0:
        return Window(0, 1)
    burst = limits.request_burst_count
    seconds = max(1, math.ceil(1 / rate), math.ceil((burst or 0) / rate))
    return Window(max(1, round(rate * seconds)), seconds)


def share(whole: Window, replica_count: int) -> Window:
    """What each of so many replicas allows by itself, so that all of them together allow no more than the whole."""
    if whole.count >= replica_count or whole.count == 0:
        return Window(whole.count // replica_count, whole.seconds)
    return Window(1, math.ceil(whole.seconds * replica_count / whole.count))
