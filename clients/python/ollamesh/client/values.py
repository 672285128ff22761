"""Protobuf's times and durations, both ways between the wire and Python."""

from datetime import UTC, datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp


def seconds(duration: Duration) -> float:
    return duration.ToNanoseconds() / 1e9


def duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    value = Duration()
    value.FromMilliseconds(round(seconds * 1000))
    return value


def time(timestamp: Timestamp) -> datetime | None:
    """In UTC, or None if it is unset."""
    return timestamp.ToDatetime(UTC) if timestamp.ToNanoseconds() else None
