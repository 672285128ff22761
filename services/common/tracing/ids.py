"""What leads from a line of a log, or an observation of a histogram, to its trace."""

from collections.abc import MutableMapping
from typing import Any

from services.common.tracing.current import current


def trace_ids(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: a line that is written during a call says in which trace, sampled or not."""
    if (span := current()) is not None:
        event["trace_id"], event["span_id"] = span.trace_id.hex(), span.span_id.hex()
    return event


def exemplar() -> dict[str, str] | None:
    """What leads from an observation of a histogram to its trace; None if nobody will find one."""
    span = current()
    return None if span is None or not span.is_sampled else exemplar_of(span.trace_id, span.span_id)


def exemplar_of(trace_id: bytes, span_id: bytes) -> dict[str, str]:
    return {"trace_id": trace_id.hex(), "span_id": span_id.hex()}
