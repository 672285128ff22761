"""What the auth service counts: tokens by grant, refusals by reason."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter

from services.common.errors import MeshError


class AuthMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._issued = Counter(
            "ollamesh_auth_tokens_issued_total", "Tokens signed", ("grant",), registry=registry
        )
        self._refused = Counter(
            "ollamesh_auth_tokens_refused_total", "Grants refused", ("grant", "reason"), registry=registry
        )

    @contextmanager
    def grant(self, grant: str) -> Iterator[None]:
        """Count what becomes of one."""
        try:
            yield
        except MeshError as error:
            self._refused.labels(grant, error.reason).inc()
            raise
        self._issued.labels(grant).inc()

    def issued(self, grant: str) -> None:
        """Count one whose refusals are no failures: a device that has to wait is told so again and again."""
        self._issued.labels(grant).inc()


class MandateMetrics:
    """Those that are redeemed are counted as tokens: `AuthMetrics.grant`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._mandates = Counter(
            "ollamesh_auth_mandates_total",
            "Mandates created, and ended by their holder",
            ("event",),
            registry=registry,
        )

    def happened(self, event: str) -> None:
        self._mandates.labels(event).inc()


class KeyMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._checks = Counter(
            "ollamesh_auth_api_key_checks_total",
            "Requests that came with a key",
            ("outcome",),
            registry=registry,
        )

    def checked(self, outcome: str) -> None:
        self._checks.labels(outcome).inc()
