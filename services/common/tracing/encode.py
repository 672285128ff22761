"""Spans as OTLP writes them (opentelemetry/proto/trace/v1/trace.proto), put together by hand.

Protobuf's own classes take ten times as long, in the event loop of every call. Attributes repeat, from call to call, so
their bytes are kept. Tests read what is written here with the real classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from struct import Struct

Value = str | bool | int | float | Sequence[str]

_FIXED = Struct("<Q").pack
_DOUBLE = Struct("<d").pack
_TIMES = Struct("<BQBQ").pack
_SMALL = [bytes((number,)) for number in range(128)]
_KEPT_MAX = 4096  # Attributes.
_INT64 = 1 << 64
_OF_SPAN, _OF_EVENT, _OF_LINK = 9, 3, 4
# Fields of a Span: that it is sampled, and that its parent is of this process, or not.
FLAGS, FLAGS_REMOTE = b"\x85\x01\x01\x01\x00\x00", b"\x85\x01\x01\x03\x00\x00"


def varint(number: int) -> bytes:
    """Return a number as it is in base 128, the lowest digit first."""
    if 0 <= number < 128:
        return _SMALL[number]
    digits, number = bytearray(), number % _INT64
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    digits.append(number)
    return bytes(digits)


def field(number: int, content: bytes) -> bytes:
    """A field of a message that has a length."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def times(started_ns: int, ended_ns: int) -> bytes:
    """The fields of a Span."""
    return _TIMES(0x39, started_ns, 0x41, ended_ns)


def attributes(given: Mapping[str, Value]) -> bytes:
    """The fields of a Span."""
    return b"".join([_attribute(_OF_SPAN, key, value) for key, value in given.items()])


def _attribute(tag: int, key: str, value: Value) -> bytes:
    """Numbers with a fraction, lists that can change, and long texts hardly come twice."""
    kind = type(value)
    if kind is int or kind is bool or kind is tuple or (kind is str and len(value) < 128):  # type: ignore[arg-type]
        return _kept(tag, key, value)
    return _made(tag, key, value)


def _made(tag: int, key: str, value: Value) -> bytes:
    return field(tag, field(1, key.encode()) + field(2, _value(value)))


# `typed`, for 1 and True are equal.
_kept = lru_cache(_KEPT_MAX, typed=True)(_made)


def status(message: str) -> bytes:
    """The field of a Span that says that it failed."""
    told = field(2, message.encode()) if message else b""
    return field(15, told + b"\x18\x02")


def event(name: str, at_ns: int, given: Mapping[str, Value]) -> bytes:
    """The field of a Span."""
    told = b"".join([_attribute(_OF_EVENT, key, value) for key, value in given.items()])
    return field(11, b"\x09" + _FIXED(at_ns) + field(2, name.encode()) + told)


def link(trace_id: bytes, span_id: bytes, given: Mapping[str, Value]) -> bytes:
    """The field of a Span."""
    told = b"".join([_attribute(_OF_LINK, key, value) for key, value in given.items()])
    return field(13, field(1, trace_id) + field(2, span_id) + told)


def resource_spans(resource: Mapping[str, Value], scope: str) -> tuple[bytes, bytes]:
    """What ExportTraceServiceRequest holds besides spans: of its ResourceSpans, of its ScopeSpans."""
    about = b"".join([_attribute(1, key, value) for key, value in resource.items()])
    return field(1, about), field(1, field(1, scope.encode()))


def request(frame: tuple[bytes, bytes], spans: Iterable[bytes]) -> bytes:
    """An ExportTraceServiceRequest."""
    of_resource, of_scope = frame
    return field(1, of_resource + field(2, of_scope + b"".join([field(2, span) for span in spans])))


def _value(value: Value) -> bytes:
    match value:
        case str():
            return field(1, value.encode(errors="replace"))
        case bool():
            return b"\x10" + varint(value)
        case int():
            return b"\x18" + varint(value)
        case float():
            return b"\x21" + _DOUBLE(value)
        case _:
            return field(5, b"".join([field(1, _value(one)) for one in value]))
