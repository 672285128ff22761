"""One HTTP/1.1 connection to an Ollama server.

An asyncio Protocol, because a completion is hundreds of tiny reads: bytes go from the socket through the
parser into the reader of the response without a task, a queue or a future on the way.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from httptools import HttpParserError, HttpResponseParser

from services.inference.ports import Fault, Trouble

# How long a connection may take to end a response that says it is complete, before it is closed instead
# of used again.
TAIL_S = 1.0


class Phase(Enum):
    """How far a response is, by its own content."""

    SILENT = auto()  # Nothing of use yet: the model may be loading.
    FLOWING = auto()
    COMPLETE = auto()  # All there is; only the framing may be outstanding.


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for the first content, and for more."""

    first_s: float
    stall_s: float


class Reader(Protocol):
    """Takes a response. Must not raise: what is wrong, it remembers."""

    phase: Phase

    def head(self, status: int) -> None:
        """Take the status."""

    def feed(self, data: bytes) -> bool:
        """Take a part of the body; False when no more is wanted."""


class Connection(asyncio.Protocol):
    """Serves one exchange at a time.

    The parser calls `on_body` for each chunk, and Ollama makes a chunk of each token. So that is a list's own
    method, and the reader is fed once for all that one read from the socket brought.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._body: list[bytes] = []  # Of the response, what the reader has not been fed yet.
        self.on_body = self._body.append
        self._whole = self._keeps = False  # Whether the response has ended, and the connection goes on.
        self._parser = HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._reader: Reader | None = None
        self._patience = Patience(first_s=0.0, stall_s=0.0)
        self._phase = Phase.SILENT
        self._heard_at_s = 0.0
        self._watchdog: asyncio.TimerHandle | None = None
        self._over: asyncio.Future[Trouble | None] = self._loop.create_future()  # Of the exchange under way.
        self.answered = False  # Whether any byte of the response has arrived.
        self.reusable = False

    async def exchange(self, request: Callable[[], bytes], reader: Reader, patience: Patience) -> None:
        """Send what `request` makes and feed the response to `reader`, until it ends or the reader wants no more.

        Raises Trouble. When this returns, the connection is idle or closed; when it raises, closed.
        """
        assert self._transport is not None, "connected"
        assert self._reader is None, "one exchange at a time"
        self._reader, self._phase, self.answered, self.reusable = reader, reader.phase, False, False
        self._whole = self._keeps = False
        self._heard_at_s = self._loop.time()
        self._patience, self._over = patience, self._loop.create_future()
        self._watch()
        try:
            self._transport.write(request())
            failure = await self._over
        except asyncio.CancelledError:
            self.reusable = False  # Whoever was to put it away is gone, complete as the response may be.
            raise
        finally:
            self._look_away()
            if not self.reusable:
                await self.close()
        if failure is not None:
            raise failure

    async def close(self) -> None:
        """Close at once, and return when it is closed."""
        self._reader = None
        if self._transport is not None:
            self._transport.abort()
            await asyncio.wait((self._lost,))

    @property
    def closed(self) -> bool:
        return self._lost.done()

    def _watch(self) -> None:
        """End the exchange if nothing has been heard for too long, else look again when that could be."""
        silent_at_s = self._heard_at_s + self._patience_s()
        if self._loop.time() < silent_at_s:
            self._watchdog = self._loop.call_at(silent_at_s, self._watch)
        elif self._phase is Phase.COMPLETE:
            self._end()
        else:
            self._end(Trouble(Fault.STALLED, f"silent for {self._patience_s():g} s"))

    def _patience_s(self) -> float:
        match self._phase:
            case Phase.SILENT:
                return self._patience.first_s
            case Phase.FLOWING:
                return self._patience.stall_s
            case Phase.COMPLETE:
                return TAIL_S

    def _turn(self, phase: Phase) -> None:
        """Go on to another phase, which may be of less patience. Never per token."""
        self._phase = phase
        self._look_away()
        self._watch()

    def _look_away(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _end(self, failure: Trouble | None = None) -> None:
        self._reader = None
        self._look_away()
        if not self._over.done():  # Its caller may have been cancelled.
            self._over.set_result(failure)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # uvloop's is no subclass of Transport.

    def data_received(self, data: bytes) -> None:
        if self._reader is None:  # Nobody asked: whoever asked next would take it for their answer.
            self._abort()
            return
        if self._phase is not Phase.COMPLETE:  # What trickles in after the end keeps nobody waiting.
            self._heard_at_s = self._loop.time()
        self.answered = True
        broken = False
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            broken = True
        if not self._feed():
            self._end()
        elif self._whole:
            # A request that was refused before all of it was sent would be read on before the next one.
            sent = self._transport is not None and not self._transport.get_write_buffer_size()
            self.reusable = self._keeps and sent and not broken
            self._end()
        elif broken and self._reader.phase is Phase.COMPLETE:
            self._end()
        elif broken:
            self._end(Trouble(Fault.BROKEN, "the answer is not HTTP"))
        elif self._reader.phase is not self._phase:
            self._turn(self._reader.phase)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature.
        self.reusable = False
        self._lost.set_result(None)
        if self._reader is not None:
            complete = self._reader.phase is Phase.COMPLETE
            self._end(None if complete else Trouble(Fault.UNREACHABLE, "the connection was lost"))

    def _feed(self) -> bool:
        """Give the reader what has arrived; False if it wants no more."""
        if not self._body:
            return True
        assert self._reader is not None, "somebody asked"
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        return self._reader.feed(body)

    def _abort(self) -> None:
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    # httptools' callbacks; `on_body` is set above.

    def on_message_begin(self) -> None:
        if self._whole:  # A second answer to one question.
            raise HttpParserError("unasked")

    def on_headers_complete(self) -> None:
        assert self._reader is not None, "somebody asked"
        if not self._is_interim():
            self._reader.head(self._parser.get_status_code())

    def on_message_complete(self) -> None:
        if not self._is_interim():
            self._whole, self._keeps = True, self._parser.should_keep_alive()

    def _is_interim(self) -> bool:
        """Whether this is no answer yet (100 Continue, 103 Early Hints): the one that follows is."""
        return int(self._parser.get_status_code()) < 200
