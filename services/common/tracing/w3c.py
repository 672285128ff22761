"""How contexts travel: W3C's Trace Context, https://www.w3.org/TR/trace-context/."""

import re
from collections.abc import Iterable

from services.common.tracing.spans import Remote, Trace

PARENT, STATE = "traceparent", "tracestate"
STATE_CHARS_MAX = 512  # As the recommendation wants it passed on at least.
# A later version may say more, after these.
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1
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
    found = _PARENT.fullmatch(parent)
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5] is not None):
        return None
    trace_id, span_id = bytes.fromhex(found[2]), bytes.fromhex(found[3])
    if not any(trace_id) or not any(span_id):
        return None
    return Remote(
        trace_id,
        span_id,
        is_sampled=bool(int(found[4], 16) & _SAMPLED),
        state=state if len(state) <= STATE_CHARS_MAX else "",
    )


def header(trace: Trace) -> str:
    """The traceparent of what is called from within a span."""
    return f"00-{trace.trace_id.hex()}-{trace.span_id.hex()}-{'01' if trace.is_sampled else '00'}"


def written(trace: Trace) -> tuple[tuple[str, str], ...]:
    """The metadata by which a trace goes on."""
    parent = (PARENT, header(trace))
    return (parent, (STATE, trace.state)) if trace.state else (parent,)
