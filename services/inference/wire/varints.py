"""Numbers as protobuf writes them (protobuf.dev/programming-guides/encoding), for messages put together by hand."""

_SMALL = [bytes((number,)) for number in range(128)]


def varint(number: int) -> bytes:
    """Return a positive number in base 128, the lowest digit first."""
    if number < 128:
        return _SMALL[number]
    digits = bytearray()
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    digits.append(number)
    return bytes(digits)
