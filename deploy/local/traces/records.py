"""A span as the store keeps it and the command line reads it: what OTLP says of it, without OTLP."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

FILE = Path("data/traces/traces.sqlite")  # In OLLAMESH_HOME.
# By what else people know a trace: the answer's x-request-id, and what commands print.
NAMED_BY = ("guid:x-request-id", "ollamesh.run.id", "ollamesh.execution.id")

Attributes = Mapping[str, Any]


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    time_ns: int
    attributes: Attributes = {}


class Link(Struct, frozen=True, kw_only=True):
    """Another trace that this one has to do with."""

    trace_id: str
    span_id: str


class Span(Struct, frozen=True, kw_only=True, omit_defaults=True):
    trace_id: str
    span_id: str
    parent_id: str = ""  # Empty: it is the first of its trace.
    name: str
    kind: str = "internal"
    service: str
    start_ns: int
    end_ns: int
    status: str = "unset"  # Or "ok" or "error".
    status_message: str = ""
    attributes: Attributes = {}
    events: tuple[Event, ...] = ()
    links: tuple[Link, ...] = ()
    is_reduced: bool = False  # It was too large: its attributes, events and links are not here.

    @property
    def is_error(self) -> bool:
        return self.status == "error"

    @property
    def duration_ns(self) -> int:
        return max(0, self.end_ns - self.start_ns)


class Summary(Struct, frozen=True, kw_only=True):
    """A trace in a list."""

    trace_id: str
    name: str  # Of the span that began first, and so the others.
    service: str
    start_ns: int
    end_ns: int
    span_count: int
    error_count: int
    left_out_count: int  # Spans that came when the trace had as many as it may have.
