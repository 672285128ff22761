"""One answer on its way from an instance to its readers."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from services.inference.arrived import Arrived, Delta
from services.inference.broadcast import Broadcast
from services.inference.errors import InstanceLost, ReaderTooSlow
from services.inference.frame_log import FrameLog
from services.inference.ports import Outcome, Piece
from services.inference.repetition import Repetition


class Durability(Enum):
    """Who can read a stream again."""

    NONE = "none"  # Nobody.
    GATEWAY = "gateway"  # This process.
    SHARED = "shared"  # All replicas.


class Source(Enum):
    """Where an answer comes from."""

    MODEL = "model"
    CACHE = "cache"


@dataclass(frozen=True, slots=True)
class Opened:
    stream_id: str
    durability: Durability = Durability.NONE


@dataclass(frozen=True, slots=True)
class Queued:
    ahead_count: int
    wait_s: float  # As predicted; inf if nobody can say.


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    model: str
    model_digest: str
    instance: str
    source: Source = Source.MODEL


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


Seal = Callable[[Event], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much of a stream is held."""

    log_bytes_max: int  # Of what was sent.
    lag_bytes_max: int  # Of what a reader has not taken.


class Keeping(Protocol):
    """Takes an answer as it comes, to keep it if it ends well."""

    def write(self, piece: Piece) -> None:
        """Take what was generated."""

    def finish(self, started: Started, outcome: Outcome) -> None:
        """Take the end."""


class Completion(Broadcast):
    """Joins the instance's pace to the readers'.

    The writer never waits: what no reader has taken yet is kept as bytes, because their number is the bound. The
    reader that is ahead of the others takes all that has arrived as one delta: fast readers see tokens, slow ones see
    batches, and no timer is needed. If the stream is `by_token`, there is a delta for each token. Then the event is in
    the log, with its number, and everybody reads it from there.

    Each event is made into a frame once, by `seal`, when it is taken: whoever carries it need not look into it.
    Nothing here knows what a frame is, or what carries it.

    Order of events: Opened Queued* Started Delta* Finished. Started is told with the first piece, for
    until then another instance may take over. A failure is raised after all that came before it.
    """

    def __init__(
        self,
        opened: Opened,
        *,
        seal: Seal,
        opened_at_s: float,
        bounds: Bounds,
        by_token: bool = False,
    ) -> None:
        super().__init__(bytes_max=bounds.log_bytes_max, lag_bytes_max=bounds.lag_bytes_max)
        self.stream_id = opened.stream_id
        self.by_token = by_token
        self.opened_at_s = opened_at_s
        self.placed_at_s: float | None = None
        self.first_piece_at_s: float | None = None
        self.ended_at_s: float | None = None
        self.lingers = False  # Whether it goes on without a reader.
        self.is_repeatable = False  # Whether the same request is answered in the same way.
        self.started: Started | None = None  # Once something was generated.
        self.token_count = 0  # Of the pieces that came.
        self.keeping: Keeping | None = None  # Of the answer, to be given again.
        self._seal = seal
        self._ahead_count = math.inf  # As last told.
        # Events that wait to be told, each at most once and in this order.
        self._opened: Opened | None = opened
        self._queued: Queued | None = None
        self._placed: Started | None = None
        self._arrived = Arrived(opened.stream_id, bytes_max=bounds.lag_bytes_max, by_token=by_token)
        self._finished: Finished | None = None
        self._ending: Finished | Exception | None = None
        self._repetition: Repetition | None = None  # While another instance repeats what was told.

    @property
    def begun(self) -> bool:
        """Whether anything was generated: from then on nobody else may answer otherwise."""
        return self.first_piece_at_s is not None

    @property
    def ending(self) -> Finished | Exception | None:
        """How it ended; None while it goes on."""
        return self._ending

    def queue(self, ahead_count: int, *, wait_s: float) -> None:
        """Tell the readers the place, if that has improved."""
        if ahead_count < self._ahead_count and self.started is None:
            self._ahead_count = ahead_count
            self._queued = Queued(ahead_count, wait_s)
            self.wake()

    def place(self, started: Started, *, now_s: float) -> None:
        """Note who is to answer. May happen again until something was generated, and after `repeat`."""
        if self.started is None:
            self._placed = started
        elif started.model_digest != self.started.model_digest:  # Other weights say something else.
            self.fail(InstanceLost())
        self.placed_at_s = now_s

    def write(self, piece: Piece) -> bool:
        """Take what was generated; False when no more is wanted."""
        if self._ending is not None:
            return False
        if self._repetition is not None:
            return self._repeated(self._repetition, piece)
        self.token_count += piece.token_count
        if self.first_piece_at_s is None:
            self.first_piece_at_s = asyncio.get_running_loop().time()
            self.started = self._placed
        if self.keeping is not None:
            self.keeping.write(piece)
        if not self._arrived.add(piece) and not self._make_room():
            return False
        self.wake()
        return True

    def finish(self, outcome: Outcome) -> None:
        """End well."""
        assert self.placed_at_s is not None, "somebody answered"
        if self._repetition is not None:  # It said less than before.
            self.fail(InstanceLost())
            return
        self.started = self.started or self._placed
        if self.keeping is not None and self.started is not None:
            self.keeping.finish(self.started, outcome)
        self._end(
            Finished(
                outcome=outcome,
                called_tools=self._arrived.has_calls,
                queue_s=self.placed_at_s - self.opened_at_s,
                total_s=asyncio.get_running_loop().time() - self.opened_at_s,
            )
        )

    def fail(self, error: Exception) -> None:
        """End badly: `error` is raised to the readers."""
        self._end(error)

    @property
    def may_restart(self) -> bool:
        """Whether it can be answered from the beginning once more, without a reader seeing a difference."""
        return not self.begun or (
            self.is_repeatable
            and self._ending is None
            and self.log.first == 1
            and not self._arrived.has_calls
        )

    def restart(self, repetition: Callable[[FrameLog], Repetition]) -> None:
        """Have what comes compared with what was told, and go on where that ended.

        `repetition` is asked what that was.
        """
        assert self.may_restart, "somebody has looked"
        while self.pull():
            pass
        told = repetition(self.log)
        self._repetition = None if told.over else told

    def adopt(self, started: Started | None = None) -> None:
        """Go on with a stream whose first frames are appended here, and were made elsewhere.

        `started` is what they said of it, once they did.
        """
        self._opened = None
        if started is not None:
            self.started = started
            self.first_piece_at_s = asyncio.get_running_loop().time()

    def pull(self) -> bool:
        body = self._next()
        if body is None:
            return False
        self.append(self._seal(Event(self.log.last + 1, body)))
        return True

    def _repeated(self, repetition: Repetition, piece: Piece) -> bool:
        rest = repetition.compare(piece)
        if repetition.differs:
            self.fail(InstanceLost())
            return False
        if not repetition.over:
            return True
        self._repetition = None
        return rest is None or self.write(rest)

    def _make_room(self) -> bool:
        """Tell all that has arrived, though nobody asks: who lags too far behind is ended by that."""
        while self.pull():
            pass
        self.look()
        if not self.readers and not self.lingers:
            self.fail(ReaderTooSlow())
            return False
        return True

    def _end(self, ending: Finished | Exception) -> None:
        if self._ending is None:  # The first ending wins.
            self._ending = ending
            self._finished = ending if isinstance(ending, Finished) else None
            self.ended_at_s = asyncio.get_running_loop().time()
            self.end(ending if isinstance(ending, Exception) else None)

    def _next(self) -> Body | None:
        """Take the next event that can be told, all that is buffered at once."""
        if self._opened is not None:
            opened, self._opened = self._opened, None
            return opened
        if self._queued is not None:
            queued, self._queued = self._queued, None
            return queued
        if self._placed is not None and self.started is not None:
            started, self._placed = self._placed, None
            return started
        if (delta := self._arrived.take()) is not None:
            return delta
        finished, self._finished = self._finished, None
        return finished
