"""One answer on its way from an instance to its reader."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from services.inference.arrived import Arrived, Delta
from services.inference.errors import CutShort, ReaderTooSlow
from services.inference.ports import Outcome, Piece


@dataclass(frozen=True, slots=True)
class Opened:
    stream_id: str


@dataclass(frozen=True, slots=True)
class Queued:
    ahead_count: int
    wait_s: float  # As predicted; inf if nobody can say.


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    model: str
    model_digest: str
    instance: str


@dataclass(frozen=True, slots=True)
class Finished:
    outcome: Outcome
    called_tools: bool
    queue_s: float
    total_s: float


Body = Opened | Queued | Started | Delta | Finished


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream; `sequence` rises by one from 1."""

    sequence: int
    body: Body


Frame_co = TypeVar("Frame_co", covariant=True)


class Completion(Generic[Frame_co]):
    """Joins the instance's pace to the reader's.

    The writer never waits: what the reader has not taken is kept as bytes, because their number is the
    bound, and a reader that lets it be reached is ended (ReaderTooSlow). The reader takes all that has
    arrived as one delta: fast readers see tokens, slow ones see batches, and no timer is needed. A reader that
    asked for each token by itself gets a delta for each.

    Each event is made into a frame once, by `seal`, when it is taken: whoever carries it need not look into it.
    Nothing here knows what a frame is, or what carries it.

    Order of events: Opened Queued* Started Delta* Finished. Started is told with the first piece, for
    until then another instance may take over. A failure is raised after all that came before it.
    """

    def __init__(
        self,
        stream_id: str,
        *,
        seal: Callable[[Event], Frame_co],
        opened_at_s: float,
        buffer_bytes_max: int,
        by_token: bool = False,
    ) -> None:
        self.stream_id = stream_id
        self.by_token = by_token
        self.opened_at_s = opened_at_s
        self.placed_at_s: float | None = None
        self.first_piece_at_s: float | None = None
        self.ended_at_s: float | None = None
        self.token_count = 0  # Of the pieces that came.
        self._seal = seal
        self._waiter: asyncio.Future[None] | None = None  # Of the reader, while there is nothing for it.
        self._ahead_count = math.inf  # As last told.
        # Events that wait to be told, each at most once and in this order.
        self._opened: Opened | None = Opened(stream_id)
        self._queued: Queued | None = None
        self._started: Started | None = None
        self._arrived = Arrived(stream_id, bytes_max=buffer_bytes_max, by_token=by_token)
        self._finished: Finished | None = None
        self._ending: Finished | Exception | None = None
        self._sequence = 0

    @property
    def begun(self) -> bool:
        """Whether anything was generated: from then on nobody else may answer."""
        return self.first_piece_at_s is not None

    @property
    def ending(self) -> Finished | Exception | None:
        """How it ended; None while it goes on."""
        return self._ending

    def queue(self, ahead_count: int, *, wait_s: float) -> None:
        """Tell the reader its place, if that has improved."""
        if ahead_count < self._ahead_count:
            self._ahead_count = ahead_count
            self._queued = Queued(ahead_count, wait_s)
            self._wake()

    def place(self, started: Started, *, now_s: float) -> None:
        """Note who is to answer. May happen again until something was generated."""
        self._started, self.placed_at_s = started, now_s

    def write(self, piece: Piece) -> bool:
        """Take what was generated; False when no more is wanted."""
        if self._ending is not None:
            return False
        self.token_count += piece.token_count
        if self.first_piece_at_s is None:
            self.first_piece_at_s = asyncio.get_running_loop().time()
        if not self._arrived.add(piece):
            self.fail(ReaderTooSlow())
            return False
        self._wake()
        return True

    def finish(self, outcome: Outcome) -> None:
        """End well."""
        assert self.placed_at_s is not None, "somebody answered"
        self._end(
            Finished(
                outcome=outcome,
                called_tools=self._arrived.has_calls,
                queue_s=self.placed_at_s - self.opened_at_s,
                total_s=asyncio.get_running_loop().time() - self.opened_at_s,
            )
        )

    def fail(self, error: Exception) -> None:
        """End badly: `error` is raised to the reader."""
        self._end(error)

    async def read(self) -> Frame_co | None:
        """Return the next event's frame, None after the last. For one reader."""
        while (body := self._next()) is None:
            match self._ending:
                case None:
                    self._waiter = asyncio.get_running_loop().create_future()
                    await self._waiter
                case Finished():
                    return None
                case CutShort() as error:
                    error.locate(stream_id=self.stream_id, last_sequence=self._sequence)
                    raise error
                case Exception() as error:
                    raise error
        self._sequence += 1
        return self._seal(Event(self._sequence, body))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _end(self, ending: Finished | Exception) -> None:
        if self._ending is None:  # The first ending wins.
            self._ending = ending
            self._finished = ending if isinstance(ending, Finished) else None
            self.ended_at_s = asyncio.get_running_loop().time()
            self._wake()

    def _next(self) -> Body | None:
        """Take the next event that can be told, all that is buffered at once."""
        if self._opened is not None:
            opened, self._opened = self._opened, None
            return opened
        if self._queued is not None:
            queued, self._queued = self._queued, None
            return queued
        if self._started is not None and (self.begun or self._finished is not None):
            started, self._started = self._started, None
            return started
        if (delta := self._arrived.take()) is not None:
            return delta
        finished, self._finished = self._finished, None
        return finished
