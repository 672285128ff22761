"""What is counted of streams. Nothing is counted by event: that would cost as much as the event."""

from enum import Enum

from prometheus_client import CollectorRegistry, Counter, Gauge


class Kept(Enum):
    """Where a stream was that is read again."""

    HERE = "here"
    SHARED = "shared"  # In Redis; another process makes it, or has made it.


class Where(Enum):
    """Who makes the answer that a request joins."""

    HERE = "here"
    REPLICA = "replica"


class Takeover(Enum):
    """What became of a stream whose maker was lost, as one process that has to do with it sees it."""

    CONTINUED = "continued"  # This process makes it from now on.
    WHOLE = "whole"  # All of it had been kept.
    LOST = "lost"  # It may not be made again: its readers here are told so.
    FENCED = "fenced"  # This process made it, and was taken for dead.


class StreamMetrics:
    """Labels are closed sets."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._open = Gauge(
            "ollamesh_streams_open",
            "Streams that are made or followed here and have not ended",
            registry=registry,
        )
        self._log_bytes = Gauge(
            "ollamesh_stream_log_bytes",
            "Events held in memory of streams that were made here, those that have ended too",
            registry=registry,
        )
        self._resumes = Counter(
            "ollamesh_stream_resumes", "Streams that were read again", ("kept",), registry=registry
        )
        self._joins = Counter(
            "ollamesh_stream_joins", "Requests that share another one's answer", ("where",), registry=registry
        )
        self._takeovers = Counter(
            "ollamesh_stream_takeovers",
            "Streams whose maker was lost, or was taken for lost",
            ("outcome",),
            registry=registry,
        )
        self._writes_failed = Counter(
            "ollamesh_stream_writes_failed",
            "Times that what is new of streams could not be written to Redis; it is written later",
            registry=registry,
        )

    def opened(self) -> None:
        self._open.inc()

    def ended(self) -> None:
        self._open.dec()

    def held(self, log_bytes: int) -> None:
        self._log_bytes.set(log_bytes)

    def resumed(self, kept: Kept) -> None:
        self._resumes.labels(kept.value).inc()

    def joined(self, where: Where) -> None:
        self._joins.labels(where.value).inc()

    def taken_over(self, outcome: Takeover) -> None:
        self._takeovers.labels(outcome.value).inc()

    def write_failed(self) -> None:
        self._writes_failed.inc()
