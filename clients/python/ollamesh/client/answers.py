"""Answers that are read to their end, whatever becomes of the connection, or of the gateway that makes them.

A stream that was lost is read again from after the last event that arrived, at whatever replica answers. So that it is
still there when only the connection was lost, it lingers for a while; whoever leaves it on purpose says so.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

import grpc
import grpc.aio
from ollamesh.client.calls import Calls
from ollamesh.client.errors import CallError
from ollamesh.client.resuming import RECONNECTS_MAX, backoff_s
from ollamesh.inference.v1 import completion_pb2 as pb
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub

LINGER_S = (
    5.0  # Longer than a new connection takes, and short enough to be wasted when this process is killed.
)
RETRIES_MAX = 3  # Of a request of which nothing was heard, as of unary calls.
RESENDS_MAX = 3  # Of a request whose stream was lost before anything was generated.
CANCEL_DEADLINE_S = 2.0

GONE = {"STREAM_NOT_FOUND", "STREAM_EXPIRED"}  # No replica knows it, or none any more.
AWAY = {"STREAM_UNREACHABLE", "AUTH_UNAVAILABLE"}  # A replica cannot tell just now.
LEAVES_OTHERS = {"", "READER_TOO_SLOW", *AWAY}  # Failures of a call after which its stream may go on.
UNGENERATED = {"opened", "queued"}


class Answers:
    """Reads the answers of one client."""

    def __init__(self, calls: Calls, channel: grpc.aio.Channel) -> None:
        self._calls = calls
        self._stub = InferenceServiceStub(channel)
        self._read: set[_Course] = set()
        self._cancelling: set[asyncio.Task[None]] = set()
        self._closed = False

    async def chat(
        self, request: pb.ChatRequest, *, deadline_s: float
    ) -> AsyncGenerator[pb.CompletionEvent, None]:
        """Stream an answer, each event once. `request` must have an id of its own."""
        request.linger.FromMilliseconds(round(LINGER_S * 1000))
        course = _Course(ends_at_s=_now_s() + deadline_s)
        self._read.add(course)
        try:
            while not course.is_over:
                try:
                    async with aclosing(self._opened(request, course)) as events:
                        async for event in events:
                            if course.take(event):
                                yield event
                except CallError as error:
                    await asyncio.sleep(course.pause_s(error))
                else:
                    course.is_over = True
        finally:
            self._read.discard(course)
            self._leave(course)

    async def close(self) -> None:
        """Say of what is still read that nobody wants it."""
        for course in self._read:
            self._leave(course)
        self._closed = True
        if self._cancelling:
            await asyncio.wait(self._cancelling)

    async def chat_once(
        self, request: pb.ChatRequest, *, deadline_s: float
    ) -> AsyncGenerator[pb.CompletionEvent, None]:
        """Stream an answer as long as the connection lasts."""
        call = self._calls.stream(self._stub.Chat, request, deadline_s=deadline_s)
        async with aclosing(call) as responses:
            async for response in responses:
                yield response.event

    async def _again(
        self, course: "_Course", *, deadline_s: float
    ) -> AsyncGenerator[pb.CompletionEvent, None]:
        request = pb.ResumeStreamRequest(stream_id=course.stream_id, after_sequence=course.last)
        call = self._calls.stream(self._stub.ResumeStream, request, deadline_s=deadline_s)
        async with aclosing(call) as responses:
            async for response in responses:
                yield response.event

    def _opened(self, request: pb.ChatRequest, course: "_Course") -> AsyncGenerator[pb.CompletionEvent, None]:
        left_s = course.ends_at_s - _now_s()
        if course.stream_id:
            return self._again(course, deadline_s=left_s)
        return self.chat_once(request, deadline_s=left_s)

    def _leave(self, course: "_Course") -> None:
        """Have the service stop at once, instead of after LINGER_S, if it may be at work still."""
        if course.is_over or not course.stream_id or self._closed:
            return
        course.is_over = True
        task = asyncio.create_task(self._cancel(course.stream_id))
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)

    async def _cancel(self, stream_id: str) -> None:
        request = pb.CancelStreamRequest(stream_id=stream_id)
        with suppress(CallError):  # Then it ends after LINGER_S.
            await self._calls.unary(self._stub.CancelStream, request, deadline_s=CANCEL_DEADLINE_S)


class _Course:
    """How far an answer has come, over all calls that it took."""

    def __init__(self, *, ends_at_s: float) -> None:
        self.ends_at_s = ends_at_s
        self.stream_id = ""
        self.last = 0  # The number of the last event, as the stream counts.
        self.is_over = False
        self._told = 0  # The same, as it was told.
        self._is_generated = False
        self._lost_count = 0  # In a row.
        self._resent_count = 0

    def take(self, event: pb.CompletionEvent) -> bool:
        """Note an event, and number it as it is told; return whether to tell it."""
        kind = event.WhichOneof("event")
        is_first = self._told == 0
        self._lost_count, self.last = 0, event.sequence
        if kind == "opened":
            self.stream_id = event.opened.stream_id
        self._is_generated = self._is_generated or kind not in UNGENERATED
        self.is_over = kind == "finished"
        if self._resent_count and kind == "opened" and not is_first:
            return False  # Of the stream that took the place of one that was told to be open.
        if self._resent_count:
            event.sequence = self._told + 1
        self._told = event.sequence
        return True

    def pause_s(self, error: CallError) -> float:
        """Return how long to wait before the next call. Raises `error` if that would be no use."""
        if error.reason in GONE and self.stream_id and not self._is_generated:
            self._resend(error)
            return 0.0
        tries_max = RECONNECTS_MAX if self.stream_id else RETRIES_MAX
        wait_s = max(backoff_s(self._lost_count), error.retry_after_s or 0.0)
        if not _is_lost(error) or self._lost_count >= tries_max or _now_s() + wait_s > self.ends_at_s:
            self._fail(error)
        self._lost_count += 1
        return wait_s

    def _resend(self, error: CallError) -> None:
        if self._resent_count >= RESENDS_MAX:
            self._fail(error)
        self._resent_count += 1
        self.stream_id, self.last = "", 0

    def _fail(self, error: CallError) -> None:
        self.is_over = error.reason not in LEAVES_OTHERS
        raise error


def _is_lost(error: CallError) -> bool:
    """Whether a call has ended because of who carried it, and not because of the answer."""
    if error.reason:
        return error.reason in AWAY
    return error.is_connection_lost or (
        error.code is grpc.StatusCode.UNKNOWN and "Stream removed" in error.message
    )


def _now_s() -> float:
    return asyncio.get_running_loop().time()
