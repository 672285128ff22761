"""One end of the pair of sockets between the head and a worker.

The pair is made by the head before the worker starts, and inherited: nothing listens, and nobody else can connect.
A protocol rather than streams, so that what arrived in one read is taken in one go, without a task or a future.
"""

import asyncio
from collections.abc import Callable

import structlog

from services.inference.processes.frames import FRAME_BYTES_MAX, Frames, FrameTooLong
from services.inference.processes.messages import FromHead, FromWorker, encoded

log = structlog.get_logger(__name__)

# What may wait for the other side to read. One that lets more pile up hangs, and is given up.
UNREAD_BYTES_MAX = 2 * FRAME_BYTES_MAX


class Link(asyncio.Protocol):
    """Sends and takes messages, in order, until either side is gone."""

    def __init__(self) -> None:
        self._take: Callable[[bytes], None] | None = None
        self._frames = Frames()
        self._transport: asyncio.WriteTransport | None = None
        self._lost = asyncio.Event()

    def gives(self, take: Callable[[bytes], None]) -> None:
        """Have each message given to `take`, which must not raise: what it raises ends the link."""
        self._take = take

    def send(self, message: FromWorker | FromHead, /) -> None:
        """Send; without waiting, and without effect if the other side is gone.

        What cannot be sent ends the link: the other side must not go on without it, and nobody else need suffer.
        """
        if self._transport is None or self._transport.is_closing():
            return
        try:
            self._transport.write(encoded(message))
        except (FrameTooLong, OverflowError):
            # An instance may say a number or a date that MessagePack has none for.
            log.exception("link_cannot_send", kind=type(message).__name__)
            self._transport.abort()
            return
        if self._transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            log.error("link_not_read", unread_bytes=self._transport.get_write_buffer_size())
            self._transport.abort()

    @property
    def lost(self) -> bool:
        return self._lost.is_set()

    async def until_lost(self) -> None:
        await self._lost.wait()

    async def close(self) -> None:
        """Send what was to be sent, and close. Takes as long as the other side takes to read."""
        if self._transport is not None:
            self._transport.close()
            await self._lost.wait()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # uvloop's is no subclass of WriteTransport.

    def data_received(self, data: bytes) -> None:
        assert self._take is not None, "whoever connects says first who takes"
        try:
            for message in self._frames.feed(data):
                self._take(message)
        except FrameTooLong:
            log.error("link_frame_too_long")  # noqa: TRY400 - There is nothing more to say.
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature.
        self._lost.set()
