"""One stream of numbered frames, and any number of readers, each at its own place in it."""

import asyncio
from collections.abc import Callable

from services.inference.errors import CutShort, InstanceLost, ReaderTooSlow, StreamExpired
from services.inference.frame_log import FrameLog

# So often in what a reader may be behind, it is looked whether one is.
_LOOKS_PER_LAG = 4

Dress = Callable[[bytes], bytes]


class Broadcast:
    """Takes frames; gives every reader all of them from where it starts, then the end or the failure.

    Whoever appends never waits. A reader that is more than `lag_bytes_max` behind is ended (ReaderTooSlow), for what
    it has not read is memory; the others go on.
    """

    def __init__(self, *, bytes_max: int, lag_bytes_max: int) -> None:
        self.log = FrameLog(bytes_max=bytes_max)
        self.ended = False
        self.failure: Exception | None = None  # How it ended, if it ended badly.
        self.on_end: Callable[[], None] | None = None
        self._lag_bytes_max = lag_bytes_max
        self._unlooked_bytes = 0
        self._told_anew_after: int | None = None
        self._readers: dict[Reader, None] = {}

    @property
    def readers(self) -> list["Reader"]:
        """Those that were not closed, and did not fail by themselves."""
        return [reader for reader in self._readers if not reader.failed]

    def pull(self) -> bool:
        """Append what is pending, if something is. For sources that leave it to their readers when that is done."""
        return False

    def reader(self, stream_id: str, *, after: int = 0, dress: Dress | None = None) -> "Reader":
        """Return a reader of what comes after the frame `after`. It must be closed.

        What it reads is named `stream_id` in failures, and passed through `dress` until that is its own frame.
        """
        made = Reader(self, stream_id, after=after, dress=dress)
        self._readers[made] = None
        self._end_who_heard_otherwise(made)
        return made

    def tell_anew(self, after: int) -> None:
        """After this frame somebody else tells it, perhaps in other frames.

        Who has read further, at the one that was lost, cannot go on: what they have read is not what comes.
        """
        self._told_anew_after = after
        for reader in self._readers:
            self._end_who_heard_otherwise(reader)

    def append(self, frame: bytes) -> None:
        """Add a frame. Who has added some should `look`."""
        self.log.append(frame)
        self._unlooked_bytes += len(frame)
        self.wake()

    def look(self) -> None:
        """End those who are too far behind, if it is time to look for them."""
        if self._unlooked_bytes * _LOOKS_PER_LAG <= self._lag_bytes_max:
            return
        self._unlooked_bytes = 0
        for reader in self.readers:
            if self.log.bytes_after(reader.lags_from) > self._lag_bytes_max:
                reader.fail(ReaderTooSlow())

    def forgive(self) -> None:
        """Blame nobody for what they have not read until now: it was old when it came."""
        for reader in self._readers:
            reader.forgive()

    def end(self, failure: Exception | None) -> None:
        """End it for all readers, once they have read what there is. The first ending counts."""
        if not self.ended:
            self.ended, self.failure = True, failure
            self.wake()
            if self.on_end is not None:
                self.on_end()

    def wake(self) -> None:
        for reader in self._readers:
            reader.wake()

    def leave(self, reader: "Reader") -> None:
        self._readers.pop(reader, None)

    def _end_who_heard_otherwise(self, reader: "Reader") -> None:
        if self._told_anew_after is not None and reader.position > self._told_anew_after:
            reader.fail(InstanceLost(), until=0)


class Reader:
    """Reads one frame after the other. For one task at a time."""

    __slots__ = (
        "_came_at",
        "_dress",
        "_failure",
        "_source",
        "_until",
        "_waiter",
        "position",
        "stream_id",
    )

    def __init__(self, source: Broadcast, stream_id: str, *, after: int, dress: Dress | None) -> None:
        self.stream_id = stream_id
        self.position = after  # The number of the last frame that was read.
        self._came_at = source.log.last
        self._source = source
        self._dress = dress
        self._failure: Exception | None = None
        self._until = 0  # The last frame to be read before its own failure.
        self._waiter: asyncio.Future[None] | None = None  # While there is nothing to read.

    @property
    def lags_from(self) -> int:
        """The last frame that it is not to blame for, if it has not read it: it came later, or has read it."""
        return max(self.position, self._came_at)

    @property
    def failed(self) -> bool:
        """Whether it ends by itself, whatever becomes of the stream."""
        return self._failure is not None

    @property
    def failure(self) -> Exception | None:
        """How it, or the stream, has failed."""
        return self._failure or self._source.failure

    def forgive(self) -> None:
        """What there is does not count as its lag."""
        self._came_at = self._source.log.last

    def dress_as(self, dress: Dress) -> None:
        """Pass what it reads through `dress`. It must not have read yet."""
        self._dress = dress

    async def read(self) -> bytes | None:
        """Return the next frame, None after the last; raise how the stream failed."""
        source = self._source
        while True:
            if self._failure is not None and self.position >= self._until:
                raise self._located(self._failure)
            if self.position < source.log.last:
                return self._next()
            if source.pull():
                if self.position < source.log.last:  # It may have read further elsewhere.
                    frame = self._next()
                    source.look()  # Not before: what it has just read is no lag.
                    return frame
                continue
            if source.failure is not None:
                raise self._located(source.failure)
            if source.ended:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, failure: Exception, *, until: int | None = None) -> None:
        """End this reader, once it has read what there is, or up to `until`. The first failure counts."""
        if self._failure is None:
            self._failure, self._until = failure, self._source.log.last if until is None else until
            self.wake()

    def close(self) -> None:
        """Idempotent."""
        self._source.leave(self)

    def _next(self) -> bytes:
        frame = self._source.log.frame(self.position + 1)
        if frame is None:  # What it was too slow for is its failure, rather than what became of that.
            raise StreamExpired if self._failure is None else self._located(self._failure)
        self.position += 1
        if self._dress is None:
            return frame
        dressed = self._dress(frame)
        if dressed is frame:  # It is past what differs from reader to reader.
            self._dress = None
        return dressed

    def _located(self, failure: Exception) -> Exception:
        """Each reader has read another part of the stream."""
        if isinstance(failure, CutShort):
            return failure.located(stream_id=self.stream_id, last_sequence=self.position)
        return failure
