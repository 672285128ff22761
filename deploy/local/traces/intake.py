"""From what arrives by OTLP to what is kept: pure, and prepared for anything that protobuf can carry.

A span without valid ids or times is rejected, as OTLP provides for. One that is too large keeps its place in the trace
and loses what makes it large.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec.structs import replace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Status
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Wire

from deploy.local.traces.records import Event, Link, Span

SPAN_BYTES_MAX = 32 * 1024
NAME_CHARACTERS_MAX = 256
TIME_NS_MAX = 2**63 - 1  # What a database's integer holds.
DEPTH_MAX = 8  # Of values in values.
UNKNOWN_SERVICE = "unknown"
KINDS = {
    Wire.SPAN_KIND_SERVER: "server",
    Wire.SPAN_KIND_CLIENT: "client",
    Wire.SPAN_KIND_PRODUCER: "producer",
    Wire.SPAN_KIND_CONSUMER: "consumer",
}
STATUSES = {Status.STATUS_CODE_OK: "ok", Status.STATUS_CODE_ERROR: "error"}


class Taken(msgspec.Struct, frozen=True):
    span: Span
    record: bytes  # Its JSON.


def take_in(request: ExportTraceServiceRequest) -> tuple[list[Taken], int]:
    """What of it can be kept, and how many of its spans are none."""
    taken: list[Taken] = []
    rejected_count = 0
    for resource in request.resource_spans:
        service = _service(resource)
        for scope in resource.scope_spans:
            for wire in scope.spans:
                if _is_valid(wire):
                    taken.append(_bounded(_span(wire, service)))
                else:
                    rejected_count += 1
    return taken, rejected_count


def _is_valid(wire: Wire) -> bool:
    return (
        len(wire.trace_id) == 16
        and any(wire.trace_id)
        and len(wire.span_id) == 8
        and any(wire.span_id)
        and len(wire.parent_span_id) in {0, 8}
        and 0 < wire.start_time_unix_nano <= TIME_NS_MAX
        and wire.end_time_unix_nano <= TIME_NS_MAX
    )


def _bounded(span: Span) -> Taken:
    record = msgspec.json.encode(span)
    if len(record) > SPAN_BYTES_MAX:
        span = replace(span, attributes={}, events=(), links=(), is_reduced=True)
        record = msgspec.json.encode(span)
    return Taken(span, record)


def _span(wire: Wire, service: str) -> Span:
    return Span(
        trace_id=wire.trace_id.hex(),
        span_id=wire.span_id.hex(),
        parent_id=wire.parent_span_id.hex() if any(wire.parent_span_id) else "",
        name=wire.name[:NAME_CHARACTERS_MAX],
        kind=KINDS.get(wire.kind, "internal"),
        service=service,
        start_ns=wire.start_time_unix_nano,
        end_ns=wire.end_time_unix_nano,
        status=STATUSES.get(wire.status.code, "unset"),
        status_message=wire.status.message[:NAME_CHARACTERS_MAX],
        attributes=_attributes(wire.attributes),
        events=tuple(_events(wire.events)),
        links=tuple(Link(trace_id=link.trace_id.hex(), span_id=link.span_id.hex()) for link in wire.links),
    )


def _events(events: Iterable[Wire.Event]) -> Iterator[Event]:
    for event in events:
        yield Event(
            name=event.name[:NAME_CHARACTERS_MAX],
            time_ns=min(event.time_unix_nano, TIME_NS_MAX),
            attributes=_attributes(event.attributes),
        )


def _service(resource: ResourceSpans) -> str:
    named = _attributes(resource.resource.attributes).get("service.name")
    return named[:NAME_CHARACTERS_MAX] if isinstance(named, str) and named else UNKNOWN_SERVICE


def _attributes(pairs: Iterable[KeyValue], depth: int = 0) -> dict[str, Any]:
    return {pair.key: _value(pair.value, depth) for pair in pairs}


def _value(value: AnyValue, depth: int) -> Any:  # noqa: ANN401 - JSON's values.
    kind = value.WhichOneof("value")
    if kind is None or depth > DEPTH_MAX:
        return None
    if kind == "array_value":
        return [_value(each, depth + 1) for each in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values, depth + 1)
    found = getattr(value, kind)
    return found.hex() if isinstance(found, bytes) else found
