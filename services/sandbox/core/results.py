"""Results of a program, read from the bytes in which it tells them. Nobody vouches for those.

    frame = size:u32 form*        size is of all that follows it
    form  = u8 type u32 data      each with its size before it; type is a MIME type in ASCII

Numbers are big-endian. A frame that is too large, or too much, is left out; after one that is malformed nothing can
be read any more. `truncated` says that something was left out, and nothing else happens.
"""

import re
import struct
from collections.abc import Iterator, Mapping

_SIZE = struct.Struct(">I")
_MIME = re.compile(rb"[a-z]+/[a-zA-Z0-9][a-zA-Z0-9.+_-]*")
FORM_COUNT_MAX = 16
EACH_BYTES_MAX = 3 << 20  # A result is one message, and clients of gRPC take 4 MiB unless told otherwise.

Result = Mapping[str, bytes]


class Decoder:
    def __init__(self, *, bytes_max: int, count_max: int, each_bytes_max: int = EACH_BYTES_MAX) -> None:
        """Make one that lets `count_max` results with `bytes_max` bytes in all pass."""
        self._bytes_left, self._count_left, self._each_bytes_max = bytes_max, count_max, each_bytes_max
        self._pending = bytearray()
        self._skipping_bytes = 0
        self._broken = False
        self.truncated = False

    def feed(self, data: bytes) -> list[Result]:
        """Take `data` in. Return the results that it completes. Keeps less than `bytes_max` and one chunk."""
        return [] if self._broken else list(self._results(data))

    def end(self) -> None:
        """Nothing follows."""
        self.truncated |= bool(self._pending)

    def _results(self, data: bytes) -> Iterator[Result]:
        self._pending += data
        while True:
            skipped_bytes = min(self._skipping_bytes, len(self._pending))
            del self._pending[:skipped_bytes]
            self._skipping_bytes -= skipped_bytes
            if len(self._pending) < _SIZE.size:
                return
            (size,) = _SIZE.unpack_from(self._pending)
            if size > min(self._bytes_left, self._each_bytes_max) or not self._count_left:
                self.truncated, self._skipping_bytes = True, _SIZE.size + size
                continue
            if len(self._pending) < _SIZE.size + size:
                return
            frame = bytes(self._pending[_SIZE.size : _SIZE.size + size])
            del self._pending[: _SIZE.size + size]
            if (result := _result(frame)) is None:
                self.truncated = self._broken = True
                self._pending.clear()
                return
            self._bytes_left -= size
            self._count_left -= 1
            yield result


def encode(forms: Mapping[str, bytes]) -> bytes:
    """Return the frame of a result. For tests, and the pattern for those who write inside of a jail."""
    body = b"".join(
        bytes([len(mime)]) + mime.encode() + _SIZE.pack(len(data)) + data for mime, data in forms.items()
    )
    return _SIZE.pack(len(body)) + body


def _result(frame: bytes) -> Result | None:
    """None if `frame` is malformed."""
    forms: dict[str, bytes] = {}
    at = 0
    while at < len(frame):
        mime_end = at + 1 + frame[at]
        mime, data_at = frame[at + 1 : mime_end], mime_end + _SIZE.size
        if data_at > len(frame) or not _MIME.fullmatch(mime) or len(forms) == FORM_COUNT_MAX:
            return None
        (size,) = _SIZE.unpack_from(frame, mime_end)
        at = data_at + size
        if at > len(frame):
            return None
        forms[mime.decode()] = frame[data_at:at]
    return forms or None
