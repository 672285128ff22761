"""What is measured of the usage ledger."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class AccountMetrics:
    """How many entries were written and lost, and how many wait."""

    def __init__(self, registry: CollectorRegistry) -> None:
        entries = Counter(
            "ollamesh_usage_entries",
            "Entries of the usage ledger, by outcome",
            ("outcome",),
            registry=registry,
        )
        self._written, self._lost = entries.labels("written"), entries.labels("lost")
        self._backlog = Gauge("ollamesh_usage_backlog", "Entries that wait to be written", registry=registry)

    def written(self, count: int) -> None:
        self._written.inc(count)

    def lost(self, count: int) -> None:
        self._lost.inc(count)

    def waiting(self, count: int) -> None:
        self._backlog.set(count)
