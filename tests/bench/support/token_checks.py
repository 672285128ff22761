"""What a service pays to check a token: one it has seen, and one it has not (`make bench-edge`)."""

import asyncio

from tests.bench.plane.costs import cached_auth_s
from tests.bench.support.report import Figure

CACHED_GOAL_US, UNCACHED_GOAL_US = 10.0, 150.0


def token_check_figures() -> list[Figure]:
    """Medians, in processor time."""
    cached_s, uncached_s = asyncio.run(cached_auth_s())
    return [
        Figure(name="token check, cached", value=cached_s * 1e6, unit="us", goal=CACHED_GOAL_US),
        Figure(
            name="token check, uncached",
            value=uncached_s * 1e6,
            unit="us",
            baseline=cached_s * 1e6,
            goal=UNCACHED_GOAL_US,
        ),
    ]
