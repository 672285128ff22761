"""Parts of an HTTP body as the bytes of `google.api.HttpBody`, put together by hand: there is one for each token.

The first part's content type becomes the response's header; later ones need none.
"""

import msgspec

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
    return _DATA + _varint(len(data)) + data


def first_part(content_type: str, data: bytes) -> bytes:
    """Return the part that a body begins with."""
    kind = content_type.encode()
    return _CONTENT_TYPE + _varint(len(kind)) + kind + part(data)


def json_body(value: object) -> bytes:
    """Return a whole body that is one JSON value."""
    return first_part(JSON, encode(value))


def _varint(number: int) -> bytes:
    """Return a number in base 128, the lowest digit first."""
    if number < 128:
        return _SMALL[number]
    digits = bytearray()
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    digits.append(number)
    return bytes(digits)


_SMALL = [bytes((number,)) for number in range(128)]
