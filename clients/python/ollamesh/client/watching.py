"""Executions that are watched through lost connections: every byte and every result once, in one numbering.

A stream that is opened again goes on from the bytes that have arrived, but counts its events from 1 and tells once
more that the program runs. What was told before is left out, and what is new is numbered on.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from ollamesh.client.errors import CallError
from ollamesh.client.resuming import reopened
from ollamesh.sandbox.v1 import execution_pb2 as pb
from ollamesh.sandbox.v1.sandbox_service_pb2 import WatchExecutionRequest, WatchExecutionResponse

Opened = Callable[[WatchExecutionRequest, float], AsyncGenerator[WatchExecutionResponse, None]]


async def watched(
    opened: Opened, start: WatchExecutionRequest, *, deadline_s: float
) -> AsyncGenerator[pb.ExecutionEvent, None]:
    """What follows `start`, to the end of the execution. `opened` makes a call, with so many seconds for it."""
    place = _Place(start)
    responses = reopened(lambda left_s: opened(place.next, left_s), _is_lost, deadline_s=deadline_s)
    async with aclosing(responses):
        async for response in responses:
            if place.take(response.event):
                yield response.event


class _Place:
    """How far a reader is."""

    def __init__(self, start: WatchExecutionRequest) -> None:
        self.next = WatchExecutionRequest()  # That asks for what follows.
        self.next.CopyFrom(start)
        self._sequence = 0
        self._told: set[str] = set()

    def take(self, event: pb.ExecutionEvent) -> bool:
        """Note `event`, and number it; return whether it is new."""
        kind = event.WhichOneof("event") or ""
        if kind in self._told or (kind == "queued" and "started" in self._told):
            return False
        match kind:
            case "queued" | "started":
                self._told.add(kind)
            case "stdout":
                self.next.stdout_offset = event.stdout.offset + len(event.stdout.data)
            case "stderr":
                self.next.stderr_offset = event.stderr.offset + len(event.stderr.data)
            case "result":
                self.next.result_count += 1
        self._sequence += 1
        event.sequence = self._sequence
        return True


def _is_lost(error: CallError) -> bool:
    """Whether the call was lost, and not the execution with its jail."""
    return error.is_connection_lost and error.reason != "SANDBOX_UNAVAILABLE"
