"""A completion with a reader of its own, and with events for frames."""

from services.inference.completion import Bounds, Completion, Event, Opened
from services.inference.frame_log import FrameLog
from services.inference.repetition import Repetition


class ReadCompletion(Completion):
    """Read like a stream of events: a frame is the place of its event in `sealed`, and about as long as that."""

    def __init__(
        self,
        stream_id: str = "s",
        *,
        opened_at_s: float = 0.0,
        buffer_bytes_max: int = 1000,
        by_token: bool = False,
    ) -> None:
        self.sealed: list[Event] = []
        super().__init__(
            Opened(stream_id),
            seal=self._sealed,
            opened_at_s=opened_at_s,
            bounds=Bounds(log_bytes_max=1 << 20, lag_bytes_max=buffer_bytes_max),
            by_token=by_token,
        )
        self.own = self.reader(stream_id)

    async def read(self) -> Event | None:
        frame = await self.own.read()
        return None if frame is None else self.sealed[int(frame)]

    def _sealed(self, event: Event) -> bytes:
        self.sealed.append(event)
        return b"%d" % (len(self.sealed) - 1) + b" " * len(repr(event.body).encode())


def nothing_told(_log: FrameLog) -> Repetition:
    """For answers that are never given again."""
    raise AssertionError("nobody begins again")
