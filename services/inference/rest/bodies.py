"""Parts of an HTTP body as the bytes of `google.api.HttpBody`, put together by hand: there is one for each token.

The first part's content type becomes the response's header; later ones need none.
"""

import msgspec

from services.inference.wire.varints import varint

JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"
PLAIN = "text/plain; charset=utf-8"  # Of bodies that are empty.
EVENTS = "text/event-stream"

# A field's number and how its value is encoded, in one byte.
_CONTENT_TYPE = b"\x0a"
_DATA = b"\x12"

encode = msgspec.json.Encoder().encode


def part(data: bytes) -> bytes:
    """Return a part of a body."""
    return _DATA + varint(len(data)) + data


def first_part(content_type: str, data: bytes) -> bytes:
    """Return the part that a body begins with."""
    kind = content_type.encode()
    return _CONTENT_TYPE + varint(len(kind)) + kind + part(data)


def json_body(value: object) -> bytes:
    """Return a whole body that is one JSON value."""
    return first_part(JSON, encode(value))
