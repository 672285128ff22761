"""What is measured of the way that audit events take."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class AuditMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        events = Counter(
            "ollamesh_audit_events",
            "Audit events, by where they came to: the chain, the spool on disk, or nowhere",
            ("to",),
            registry=registry,
        )
        self._chained, self._spooled, self._lost = map(events.labels, ("chain", "spool", "nowhere"))
        self._waiting = Gauge("ollamesh_audit_waiting", "Audit events in memory", registry=registry)
        self._spool_bytes = Gauge("ollamesh_audit_spool_bytes", "Audit events on disk", registry=registry)

    def chained(self, count: int) -> None:
        self._chained.inc(count)

    def spooled(self, count: int) -> None:
        self._spooled.inc(count)

    def lost(self, count: int) -> None:
        self._lost.inc(count)

    def holding(self, *, waiting_count: int, spool_bytes: int) -> None:
        self._waiting.set(waiting_count)
        self._spool_bytes.set(spool_bytes)
