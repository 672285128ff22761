"""Messages as a stream of bytes: each after its length."""

from collections.abc import Iterator

# More than any message has. The longest is what an instance says of itself: three answers (its version, models and
# loaded models), each read up to 16 MiB of JSON, of which no part takes more bytes here than there (messages.py).
FRAME_BYTES_MAX = 64 * 1024 * 1024
_LENGTH_BYTES = 4


class FrameTooLong(Exception):
    """Longer than any message can be."""


def framed(payload: bytes) -> bytes:
    """Return a message as it is sent. Raises FrameTooLong."""
    if len(payload) > FRAME_BYTES_MAX:
        raise FrameTooLong
    return len(payload).to_bytes(_LENGTH_BYTES, "big") + payload


class Frames:
    """Takes bytes as they arrive, however cut, and gives messages."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the messages that are complete now. Raises FrameTooLong."""
        self._received += data
        start = 0
        try:
            while (message := self._at(start)) is not None:
                start += _LENGTH_BYTES + len(message)
                yield message
        finally:
            del self._received[:start]

    def _at(self, start: int) -> bytes | None:
        """Return the message that begins at `start`, if it is all there."""
        begin = start + _LENGTH_BYTES
        if len(self._received) < begin:
            return None
        length = int.from_bytes(self._received[start:begin], "big")
        if length > FRAME_BYTES_MAX:
            raise FrameTooLong
        if len(self._received) < begin + length:
            return None
        return bytes(self._received[begin : begin + length])
