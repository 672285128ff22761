"""One output stream of an execution, addressed by byte offset.

The first `limit_bytes` bytes are kept, so that any reader can begin at any offset; what comes after is
counted and dropped. Keeping the beginning rather than the end is what programs expect of a truncated
log, and it makes an offset valid for ever.
"""

# A program may overshoot by so many times its limit before it is ended. Ending it at once would punish
# a loop that prints a little too much; never ending it would let it burn time writing into the void.
FLOOD_FACTOR = 8


class Output:
    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._kept = bytearray()
        self._dropped_bytes = 0

    def write(self, data: bytes) -> None:
        room_bytes = self._limit_bytes - len(self._kept)
        self._kept += data[:room_bytes]
        self._dropped_bytes += max(0, len(data) - room_bytes)

    def read(self, offset: int, count_max: int) -> bytes:
        """At most `count_max` bytes from `offset` on; b"" if there are none yet."""
        return bytes(self._kept[offset : offset + count_max])

    @property
    def size_bytes(self) -> int:
        return len(self._kept)

    @property
    def truncated(self) -> bool:
        return self._dropped_bytes > 0

    @property
    def flooded(self) -> bool:
        return self._dropped_bytes > FLOOD_FACTOR * self._limit_bytes
