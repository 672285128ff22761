"""One span: recorded by whoever began it, sent when it ends.

What is under way is a matter of the context (current.py); here are its values. A span whose trace is not sampled is not
there at all: in its place is a Remote, which only says how the trace is called.
"""

import random
import time
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Protocol

from services.common.tracing import encode
from services.common.tracing.encode import Value
from services.common.tracing.names import ERROR

EVENTS_MAX = 64  # Of a span. What comes after them is not told.
DETAILS_MAX = 100  # Questions to stores within one span.
_ids = random.Random()  # noqa: S311 - Names of spans; nobody is let in by them.


class Kind(IntEnum):
    """As OTLP numbers them."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3
    PRODUCER = 4
    CONSUMER = 5


class Shape:
    """What spans of one kind have in common, made once."""

    __slots__ = ("encoded", "name")

    def __init__(self, name: str, kind: Kind, attributes: Mapping[str, Value] | None = None) -> None:
        self.name = name
        self.encoded = (
            encode.field(5, name.encode())
            + b"\x30"
            + encode.varint(kind)
            + encode.attributes(attributes or {})
        )


class Trace(Protocol):
    """How a trace goes on elsewhere."""

    @property
    def trace_id(self) -> bytes: ...
    @property
    def span_id(self) -> bytes: ...
    @property
    def state(self) -> str:
        """W3C's tracestate: others' business, passed on."""

    @property
    def is_sampled(self) -> bool: ...


class Remote:
    """A span of somebody else, or of a trace that nobody records."""

    __slots__ = ("is_sampled", "span_id", "state", "trace_id")

    def __init__(self, trace_id: bytes, span_id: bytes, *, is_sampled: bool, state: str = "") -> None:
        self.trace_id, self.span_id = trace_id, span_id
        self.is_sampled, self.state = is_sampled, state


Send = Callable[[bytes], None]


class Span:
    """A stretch of work. Times are nanoseconds since 1970; without one, it is now."""

    __slots__ = (
        "_attributes", "_detail_count", "_event_count", "_flags", "_has_ended", "_has_failed", "_more", "_parent", "_send", "_shape", "_started_ns", "span_id",
        "state", "trace_id",
    )  # fmt: skip
    is_sampled = True

    def __init__(  # noqa: PLR0913 - Of this module's functions alone.
        self,
        send: Send,
        shape: Shape,
        trace_id: bytes,
        *,
        parent: bytes = b"",
        is_parent_remote: bool = False,
        state: str = "",
        started_ns: int | None = None,
    ) -> None:
        self._send, self._shape, self.trace_id, self.state = send, shape, trace_id, state
        self.span_id = new_id(8)
        self._parent = parent
        self._flags = encode.FLAGS_REMOTE if is_parent_remote else encode.FLAGS
        self._started_ns = time.time_ns() if started_ns is None else started_ns
        self._attributes: dict[str, Value] = {}
        self._more = b""  # Events, links and the status.
        self._event_count = self._detail_count = 0
        self._has_ended = self._has_failed = False

    def child(self, shape: Shape, *, started_ns: int | None = None) -> "Span":
        return Span(
            self._send, shape, self.trace_id, parent=self.span_id, state=self.state, started_ns=started_ns
        )

    def detail(self, shape: Shape, *, started_ns: int | None = None) -> "Span | None":
        """A child of which there may be very many; None once there are enough, of which it is only told how many more."""
        self._detail_count += 1
        return self.child(shape, started_ns=started_ns) if self._detail_count <= DETAILS_MAX else None

    def set(self, attributes: Mapping[str, Value]) -> None:
        self._attributes.update(attributes)

    def event(
        self, name: str, attributes: Mapping[str, Value] | None = None, *, at_ns: int | None = None
    ) -> None:
        """Something happened meanwhile."""
        self._event_count += 1
        if self._event_count <= EVENTS_MAX:
            self._more += encode.event(name, time.time_ns() if at_ns is None else at_ns, attributes or {})

    def link(self, other: Trace, attributes: Mapping[str, Value] | None = None) -> None:
        """It has to do with another trace."""
        self._more += encode.link(other.trace_id, other.span_id, attributes or {})

    def fail(self, reason: str) -> None:
        """It failed. `reason` is a word of a closed set, never what somebody said; one that is noted goes before it."""
        if not self._has_failed:
            self._has_failed = True
            self._more += encode.status(str(self._attributes.setdefault(ERROR, reason)))

    def end(self, at_ns: int | None = None) -> None:
        """It is over, and sent. Idempotent."""
        if self._has_ended:
            return
        self._has_ended = True
        if self._detail_count > DETAILS_MAX:
            self._attributes["ollamesh.untold_count"] = self._detail_count - DETAILS_MAX
        ended_ns = time.time_ns() if at_ns is None else at_ns
        self._send(
            b"".join(
                (
                    b"\x0a\x10",
                    self.trace_id,
                    b"\x12\x08",
                    self.span_id,
                    b"\x22\x08" + self._parent if self._parent else b"",
                    self._flags,
                    encode.field(3, self.state.encode()) if self.state else b"",
                    self._shape.encoded,
                    encode.times(self._started_ns, max(ended_ns, self._started_ns)),
                    encode.attributes(self._attributes),
                    self._more,
                )
            )
        )

    @property
    def has_ended(self) -> bool:
        return self._has_ended


def new_id(byte_count: int) -> bytes:
    """A name that nobody else has. Zero is none."""
    return (_ids.getrandbits(8 * byte_count) or 1).to_bytes(byte_count, "big")
