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
_FLAGS = Struct("<I").pack
_SMALL = [bytes((number,)) for number in range(128)]
_KEPT_MAX = 4096  # Attributes.
_KEPT_CHARS_MAX = 128  # What is longer is hardly seen twice.
_INT64 = 1 << 64


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


def fixed(tag: bytes, number: int) -> bytes:
    return tag + _FIXED(number)


def attribute(key: str, value: Value) -> bytes:
    """A KeyValue."""
    if isinstance(value, str | bool | int):
        if isinstance(value, str) and len(value) > _KEPT_CHARS_MAX:
            return _attribute(key, value)
        return _kept_attribute(key, value)
    return _attribute(key, value)


def attributes(tag: int, given: Mapping[str, Value]) -> bytes:
    """The field `tag`, once for each."""
    return b"".join([field(tag, attribute(key, value)) for key, value in given.items()])


def status(message: str) -> bytes:
    """The field of a Span that says that it failed."""
    told = field(2, message.encode()) if message else b""
    return field(15, told + b"\x18\x02")


def event(name: str, at_ns: int, given: Mapping[str, Value]) -> bytes:
    """The field of a Span."""
    return field(11, fixed(b"\x09", at_ns) + field(2, name.encode()) + attributes(3, given))


def link(trace_id: bytes, span_id: bytes, given: Mapping[str, Value]) -> bytes:
    """The field of a Span."""
    return field(13, field(1, trace_id) + field(2, span_id) + attributes(4, given))


def flags(*, is_parent_remote: bool) -> bytes:
    """The field of a Span: that it is sampled, and whether its parent is another process's."""
    return b"\x85\x01" + _FLAGS(0x301 if is_parent_remote else 0x101)


def resource_spans(resource: Mapping[str, Value], scope: str) -> tuple[bytes, bytes]:
    """What ExportTraceServiceRequest holds besides spans: of its ResourceSpans, of its ScopeSpans."""
    return field(1, attributes(1, resource)), field(1, field(1, scope.encode()))


def request(frame: tuple[bytes, bytes], spans: Iterable[bytes]) -> bytes:
    """An ExportTraceServiceRequest."""
    of_resource, of_scope = frame
    return field(1, of_resource + field(2, of_scope + b"".join([field(2, span) for span in spans])))


def _attribute(key: str, value: Value) -> bytes:
    return field(1, key.encode()) + field(2, _value(value))


# `typed`, for 1 and True are equal.
_kept_attribute = lru_cache(_KEPT_MAX, typed=True)(_attribute)


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
