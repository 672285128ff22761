"""A worker's request, as the engine has it: work that is done in another process.

All that a caller gets is the worker's business, so `begun` and `over` are what the worker said when it last ended the
use of a slot. Nobody asks before, but for one thing: that a caller who has its answer should not be cancelled is for
the worker to know, and it ignores a Cancel that comes too late.
"""

import asyncio
from collections.abc import Callable

from services.inference.core.usage import Usage
from services.inference.ports import Trouble
from services.inference.processes.messages import (
    FAULTS,
    Cancel,
    Ended,
    Fail,
    Place,
    Run,
    Send,
    Wrong,
    error_of,
    wrong,
)
from services.inference.work import Seat, Summary


class FarWork:
    """The use of one slot by a worker. It is closed when no message about it can follow."""

    def __init__(self, number: int, operation: str, *, send: Send, closed: Callable[[int], None]) -> None:
        self._number = number
        self._operation = operation
        self._send = send
        self._closed = closed
        self._running = False
        self._answered = asyncio.Event()  # Ended has come, or never will.
        self._ended = Ended(number=number)
        self._error: Exception | None = None  # Ours, for the caller.
        self._failed_at_s = 0.0

    @property
    def running(self) -> bool:
        """Whether the worker was told to run it and has not yet ended."""
        return self._running

    @property
    def begun(self) -> bool:
        return self._ended.begun

    @property
    def may_restart(self) -> bool:
        return self._ended.may_restart

    @property
    def over(self) -> bool:
        return self._ended.over or self._error is not None

    def queue(self, ahead_count: int, *, wait_s: float) -> None:
        self._send(Place(number=self._number, ahead_count=ahead_count, wait_s=wait_s))

    async def run(self, seat: Seat) -> None:
        """Have the worker use the slot. Returns or raises only when it has said that it is done with it, or is gone.

        Cancelled, it has the worker cancel, and raises CancelledError if that came before the end: unless the worker
        had not begun, or was done.
        """
        self._running = True
        self._answered.clear()
        self._send(
            Run(
                number=self._number,
                instance=seat.name,
                model=seat.card.name,
                digest=seat.card.digest,
                first_token_s=seat.first_token_s,
            )
        )
        while not self._answered.is_set():
            try:
                await self._answered.wait()
            except asyncio.CancelledError:
                if not self._answered.is_set():
                    told = None if self._error is None else wrong(self._error)
                    self._send(Cancel(number=self._number, wrong=told))
        ended = self._ended
        if ended.fault:
            raise Trouble(FAULTS[ended.fault], ended.detail)
        if ended.cancelled and ended.started:
            raise asyncio.CancelledError

    def fail(self, error: Exception) -> None:
        """Hear that it will not be done. While it runs, whoever says so cancels it too, and the worker hears of both."""
        if self._error is None:
            self._error = error
            self._failed_at_s = asyncio.get_running_loop().time()
        if not self._running:
            self._send(Fail(number=self._number, wrong=wrong(self._error)))
            self._closed(self._number)

    def ended(self, message: Ended) -> None:
        """The worker is done with the slot. After trouble it waits for what is next: another slot, or the end."""
        if not self._running:
            return
        self._ended = message
        self._running = False
        self._answered.set()
        if not message.fault:
            self._closed(self._number)

    def lose(self) -> None:
        """The worker is gone, and its connections with it. Nobody knows how far it had come."""
        self.ended(Ended(number=self._number, cancelled=True))

    def usage(self) -> Usage | None:
        return self._ended.usage

    def summary(self) -> Summary:
        ended = self._ended
        error, ended_at_s = self._error, self._failed_at_s if self._error is not None else None
        if ended.over:  # What its caller got counts, whatever was found out later.
            ended_at_s = ended.ended_at_s
            error = None if ended.error is None else _error_of(ended.error)
        return Summary(
            operation=self._operation,
            ended_at_s=ended_at_s,
            first_token_at_s=ended.first_token_at_s,
            prompt_token_count=ended.prompt_token_count,
            output_token_count=ended.output_token_count,
            error=error,
        )


def _error_of(reason: str) -> Exception:
    return error_of(Wrong(reason=reason))
