"""A chat is told once and whole, whatever becomes of the connection, or of the gateway that answers it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import grpc
import pytest
from ollamesh.client import CallError, Client, Password, answers, chats, resuming
from ollamesh.inference.v1.completion_pb2 import (
    CancelStreamRequest,
    CancelStreamResponse,
    ChatRequest,
    ChatResponse,
    CompletionEvent,
    ResumeStreamRequest,
    ResumeStreamResponse,
)

from services.common.errors import AuthUnavailable, MeshError
from services.inference.errors import (
    InstanceLost,
    NoInstance,
    QueueFull,
    ReaderTooSlow,
    StreamExpired,
    StreamNotFound,
    StreamUnreachable,
)
from tests.fakes.scripted_mesh import PASSWORD, USERNAME, ScriptedMesh
from tests.service.client_rig import impatient, mesh

__all__ = ["impatient", "mesh"]

WITHIN_S = 10.0
RESET = Exception("Received RST_STREAM with error code 2")
TEXT = "w4w5w6"


class Loses:
    """Tells a stream, and loses it after so many events, once for each entry of `losses`."""

    def __init__(self, mesh: ScriptedMesh, *losses: tuple[int, Exception | None]) -> None:
        self.losses = list(losses)
        self.chats: list[ChatRequest] = []
        self.resumed: list[tuple[str, int]] = []
        self.cancelled: list[str] = []
        mesh.streams |= {"Chat": self.chat, "ResumeStream": self.resume}
        mesh.unary["CancelStream"] = self.cancel

    async def chat(self, request: ChatRequest, context: Any) -> AsyncIterator[ChatResponse]:
        self.chats.append(request)
        async for event in self._told(0, context):
            yield ChatResponse(event=event)

    async def resume(self, request: ResumeStreamRequest, context: Any) -> AsyncIterator[ResumeStreamResponse]:
        self.resumed.append((request.stream_id, request.after_sequence))
        async for event in self._told(request.after_sequence, context):
            yield ResumeStreamResponse(event=event)

    async def cancel(self, request: CancelStreamRequest, context: Any) -> CancelStreamResponse:
        self.cancelled.append(request.stream_id)
        return CancelStreamResponse()

    async def _told(self, after: int, context: Any) -> AsyncIterator[CompletionEvent]:
        last, failure = self.losses.pop(0) if self.losses else (7, None)
        for event in self._events():
            if after < event.sequence <= last:
                yield event
        if isinstance(failure, MeshError):
            raise failure
        if failure is not None:
            await context.abort(grpc.StatusCode.INTERNAL, str(failure))
        if last < 7:
            await asyncio.Event().wait()

    def _events(self) -> Iterator[CompletionEvent]:
        yield CompletionEvent(
            sequence=1, opened=CompletionEvent.Opened(stream_id=f"stream-{len(self.chats)}")
        )
        yield CompletionEvent(sequence=2, queued=CompletionEvent.Queued(ahead_count=1))
        yield CompletionEvent(sequence=3, started=CompletionEvent.Started(model="tiny"))
        for number in (4, 5, 6):
            yield CompletionEvent(
                sequence=number, delta=CompletionEvent.Delta(text=f"w{number}", token_count=1)
            )
        yield CompletionEvent(sequence=7, finished=CompletionEvent.Finished())


async def whole(mesh: ScriptedMesh, **options: Any) -> list[chats.Event]:
    """Read a chat to its end, and hold it to its grammar."""
    async with Client(mesh.url, Password(USERNAME, PASSWORD)) as client:
        events = [event async for event in client.chat("tiny", "hi", **options)]
    assert [event.sequence for event in events] == [1, 2, 3, 4, 5, 6, 7]
    assert "".join(event.text for event in events if isinstance(event, chats.Delta)) == TEXT
    return events


async def failed(mesh: ScriptedMesh, **options: Any) -> tuple[list[int], CallError]:
    told: list[int] = []
    async with Client(mesh.url, Password(USERNAME, PASSWORD)) as client:
        try:
            async for event in client.chat("tiny", "hi", **options):
                told.append(event.sequence)  # noqa: PERF401 - What came before the failure counts.
        except CallError as error:
            return told, error
    raise AssertionError("it ended well")


async def test_it_goes_on_after_the_last_event_that_arrived(mesh: ScriptedMesh) -> None:
    script = Loses(mesh, (4, RESET), (4, StreamUnreachable(retry_after_s=0.01)), (6, RESET))
    await whole(mesh)
    assert len(script.chats) == 1
    assert script.resumed == [("stream-1", 4), ("stream-1", 4), ("stream-1", 6)]
    assert script.cancelled == []


async def test_it_survives_the_server() -> None:
    """Not a status but a socket that is gone: the server is stopped and another one started."""
    mesh, received = ScriptedMesh(), asyncio.Event()
    Loses(mesh, (5, None))
    texts: list[str] = []

    async def read() -> None:
        async with Client(mesh.url, Password(USERNAME, PASSWORD)) as client:
            async for event in client.chat("tiny", "hi"):
                if isinstance(event, chats.Delta):
                    texts.append(event.text)
                    received.set()

    async with mesh.serving():
        reader = asyncio.create_task(read())
        await asyncio.wait_for(received.wait(), WITHIN_S)
    async with mesh.serving(mesh.port):
        await asyncio.wait_for(reader, 2 * WITHIN_S)
    assert texts == ["w4", "w5", "w6"]


async def test_what_was_lost_before_anything_was_generated_is_asked_for_again(mesh: ScriptedMesh) -> None:
    """And told as one stream, with the numbers of one."""
    script = Loses(mesh, (2, RESET), (0, StreamNotFound()), (1, RESET), (0, StreamExpired()))
    async with Client(mesh.url, Password(USERNAME, PASSWORD)) as client:
        events = [event async for event in client.chat("tiny", "hi")]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [type(event).__name__[0] for event in events] == list("OQQSDDDF")
    assert len({chat.request_id for chat in script.chats}) == 1
    assert len(script.chats) == 3
    assert script.resumed == [("stream-1", 2), ("stream-2", 1)]


async def test_it_is_not_asked_for_again_for_ever(mesh: ScriptedMesh) -> None:
    script = Loses(mesh, *[(2, RESET), (0, StreamNotFound())] * 10)
    _, error = await failed(mesh)
    assert error.reason == "STREAM_NOT_FOUND"
    assert len(script.chats) == answers.RESENDS_MAX + 1


async def test_what_had_begun_is_never_asked_for_again(mesh: ScriptedMesh) -> None:
    script = Loses(mesh, (4, RESET), (0, StreamExpired()))
    told, error = await failed(mesh)
    assert (told, error.reason, len(script.chats)) == ([1, 2, 3, 4], "STREAM_EXPIRED", 1)


@pytest.mark.parametrize("failure", [InstanceLost(), NoInstance(), QueueFull(), Exception("internal error")])
async def test_other_failures_are_final(mesh: ScriptedMesh, failure: Exception) -> None:
    script = Loses(mesh, (4, failure), (4, RESET), (5, failure))
    for last in (4, 5):
        told, error = await failed(mesh)
        assert told[-1] == last
        assert error.reason == getattr(failure, "reason", "")
    assert script.resumed == [("stream-2", 4)]


@pytest.mark.usefixtures("impatient")
async def test_it_gives_up_in_the_end(mesh: ScriptedMesh) -> None:
    script = Loses(mesh, (4, RESET), *[(4, RESET)] * 100)
    _, error = await failed(mesh)
    assert error.is_connection_lost
    assert len(script.resumed) == resuming.RECONNECTS_MAX
    script.losses.clear()
    await whole(mesh)


@pytest.mark.usefixtures("impatient")
async def test_a_mesh_of_which_nothing_is_heard_is_given_up_sooner(mesh: ScriptedMesh) -> None:
    script = Loses(mesh, *[(0, RESET)] * 100)
    await failed(mesh)
    assert len(script.chats) == answers.RETRIES_MAX + 1
    script.losses = [(0, RESET), (0, AuthUnavailable(retry_after_s=0.01))]
    await whole(mesh)
    assert len({chat.request_id for chat in script.chats[answers.RETRIES_MAX + 1 :]}) == 1


async def test_its_deadline_spans_all_calls(mesh: ScriptedMesh) -> None:
    script = Loses(mesh, (4, RESET), *[(4, RESET)] * 100)
    _, error = await asyncio.wait_for(failed(mesh, deadline_s=0.5), WITHIN_S)
    assert error.is_connection_lost
    assert script.chats
    assert mesh.remaining_s["ResumeStream"] <= 0.51


async def test_it_can_be_switched_off(mesh: ScriptedMesh) -> None:
    script = Loses(mesh, (4, RESET), (4, RESET))
    told, _ = await failed(mesh, resume=False)
    assert told == [1, 2, 3, 4]
    async with Client(mesh.url, Password(USERNAME, PASSWORD), resume=False) as client:
        events = client.chat("tiny", "hi")
        assert [(await anext(events)).sequence for _ in range(4)] == told
        with pytest.raises(CallError, match="RST_STREAM"):
            await anext(events)
    assert script.resumed == []
    assert not any(chat.HasField("linger") for chat in script.chats)


async def until(holds: Any) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not holds():
            await asyncio.sleep(0.005)


async def test_who_leaves_ends_it_at_once(mesh: ScriptedMesh) -> None:
    script = Loses(mesh, (4, None))
    async with Client(mesh.url, Password(USERNAME, PASSWORD)) as client:
        async with aclosing(client.chat("tiny", "hi")) as events:
            async for event in events:
                if event.sequence == 3:
                    break
        await until(lambda: script.cancelled == ["stream-1"])
    assert script.chats[0].linger.ToMilliseconds() == answers.LINGER_S * 1000


async def test_closing_the_client_ends_what_is_read(mesh: ScriptedMesh) -> None:
    script = Loses(mesh, (4, None))
    async with Client(mesh.url, Password(USERNAME, PASSWORD)) as client:
        events = client.chat("tiny", "hi")
        await anext(events)
    assert script.cancelled == ["stream-1"]
    await events.aclose()


async def test_what_ended_for_its_reader_alone_is_ended_for_good(mesh: ScriptedMesh) -> None:
    script = Loses(mesh, (5, ReaderTooSlow()))
    _, error = await failed(mesh)
    assert error.reason == "READER_TOO_SLOW"
    assert script.cancelled == ["stream-1"]
