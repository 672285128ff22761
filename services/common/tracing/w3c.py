"""How contexts travel: W3C's Trace Context, https://www.w3.org/TR/trace-context/."""

import re
from collections.abc import Iterable

from services.common.tracing.spans import Remote, Trace

PARENT, STATE = "traceparent", "tracestate"
STATE_CHARS_MAX = 512  # As the recommendation wants it passed on at least.
# Of version 00. A later one may say more, after these.
_PARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_LATER = re.compile(r"(?!00|ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_SAMPLED = 1
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
Metadata = Iterable[tuple[str, str | bytes]]


def read(metadata: Metadata) -> Remote | None:
    """What the caller says of its trace; None if that is nothing, or makes no sense."""
    parent, state = None, ""
    for key, value in metadata:
        if key == PARENT:
            if parent is not None:
                return None  # Two.
            parent = value
        elif key == STATE and isinstance(value, str):
            state = f"{state},{value}" if state else value
    return None if not isinstance(parent, str) else parse(parent, state)


def parse(parent: str, state: str = "") -> Remote | None:
    if (found := _PARENT.fullmatch(parent) or _LATER.fullmatch(parent)) is None:
        return None
    trace_id, span_id, flags = found.groups()
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return Remote(
        bytes.fromhex(trace_id),
        bytes.fromhex(span_id),
        is_sampled=bool(int(flags, 16) & _SAMPLED),
        state=state if len(state) <= STATE_CHARS_MAX else "",
    )


def header(trace: Trace) -> str:
    """The traceparent of what is called from within a span."""
    return f"00-{trace.trace_id.hex()}-{trace.span_id.hex()}-{'01' if trace.is_sampled else '00'}"


def written(trace: Trace) -> tuple[tuple[str, str], ...]:
    """The metadata by which a trace goes on."""
    parent = (PARENT, header(trace))
    return (parent, (STATE, trace.state)) if trace.state else (parent,)
