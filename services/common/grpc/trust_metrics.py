"""How fresh what a service trusts is: the keys of tokens, and the list of what was revoked."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge


class TrustMetrics:
    """Times are those of the machine's clock, 0 before the first."""

    def __init__(self, registry: CollectorRegistry, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        refreshes = Counter(
            "ollamesh_jwks_refreshes_total",
            "Times that the keys of tokens were asked for, by outcome",
            ("outcome",),
            registry=registry,
        )
        self._ok, self._failed = refreshes.labels("ok"), refreshes.labels("failed")
        self._refreshed_at_s = Gauge(
            "ollamesh_jwks_refresh_timestamp_seconds", "When the keys were last learnt", registry=registry
        )
        self._heard_at_s = Gauge(
            "ollamesh_revocations_timestamp_seconds",
            "When the auth service last said what is revoked, or that nothing new is",
            registry=registry,
        )

    def refreshed(self) -> None:
        self._ok.inc()
        self._refreshed_at_s.set(self._clock())

    def not_refreshed(self) -> None:
        self._failed.inc()

    def heard(self) -> None:
        """Of revocations."""
        self._heard_at_s.set(self._clock())
