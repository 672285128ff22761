"""The events of a stream as they were sent, numbered from 1, in as few bytes as they have."""

from array import array


class FrameLog:
    """Appends frames and gives them back by number.

    A token's frame has some thirty bytes, and an object for each would weigh three times that. So they lie end to end,
    and beside them is where each one ends. If there are more than `bytes_max`, the older half is forgotten.
    """

    __slots__ = ("_bytes_max", "_data", "_ends", "_forgotten_bytes", "_forgotten_count")

    def __init__(self, *, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._data = bytearray()
        self._ends = array("I")  # Of each frame in `_data`.
        self._forgotten_count = self._forgotten_bytes = 0

    @property
    def first(self) -> int:
        """The number of the oldest frame that is kept, or of the next one if none is."""
        return self._forgotten_count + 1

    @property
    def last(self) -> int:
        """The number of the newest frame; 0 if there was none."""
        return self._forgotten_count + len(self._ends)

    @property
    def held_bytes(self) -> int:
        return len(self._data)

    def begin(self, first: int) -> None:
        """Let the next frame have this number: what came before is forgotten. It must be empty."""
        assert self.last == 0, "it has begun"
        self._forgotten_count = first - 1

    def append(self, frame: bytes) -> None:
        self._data += frame
        self._ends.append(len(self._data))
        if len(self._data) > self._bytes_max:
            self._forget()

    def frame(self, number: int) -> bytes | None:
        """Return a frame, up to the last; None if it is forgotten."""
        place = number - self._forgotten_count - 1
        if place < 0:
            return None
        start = self._ends[place - 1] if place else 0
        return bytes(self._data[start : self._ends[place]])

    def after(self, number: int, *, bytes_max: int | None = None) -> list[bytes]:
        """Return what is kept of the frames after `number`: about so many bytes at most, one frame at least."""
        found: list[bytes] = []
        left_bytes = self.held_bytes if bytes_max is None else bytes_max
        for each in range(max(number + 1, self.first), self.last + 1):
            frame = self.frame(each)
            assert frame is not None, "it is kept"
            left_bytes -= len(frame)
            if left_bytes < 0 and found:
                break
            found.append(frame)
        return found

    def cut(self, last: int) -> None:
        """Take back the frames after `last`, of those that are kept."""
        count = max(0, last - self._forgotten_count)
        if count < len(self._ends):
            del self._data[self._ends[count - 1] if count else 0 :]
            del self._ends[count:]

    def bytes_after(self, number: int) -> int:
        """Return how many bytes the frames after `number` have, those that are forgotten too."""
        place = min(number - self._forgotten_count, len(self._ends))
        if place <= 0:  # What is forgotten of it was at least this much.
            return len(self._data) + (self._forgotten_bytes if place < 0 else 0)
        return len(self._data) - self._ends[place - 1]

    def _forget(self) -> None:
        """Forget the oldest, until half of what may be kept is left: each byte is moved once on average."""
        count = next(
            place + 1 for place, end in enumerate(self._ends) if len(self._data) - end <= self._bytes_max // 2
        )
        cut = self._ends[count - 1]
        del self._data[:cut]
        self._ends = array("I", (end - cut for end in self._ends[count:]))
        self._forgotten_count += count
        self._forgotten_bytes += cut
