"""An InferenceService that says what a test scripts, over a real socket and through the real call path.

Replies are taken from `script`, one for each Chat; when it is empty, `brain` answers by what it is asked, the same to the
same, as the gateway does; without one, `otherwise` answers. What was asked,
by whom and until when is kept in `asked`. `running` counts generations that somebody still listens to. An answer whose
listener left is ended, and to whoever asks under its name again it says no more than that, as the gateway's do.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc.aio
from ollamesh.inference.v1 import completion_pb2 as pb
from ollamesh.inference.v1.inference_service_pb2_grpc import (
    InferenceServiceServicer,
    add_InferenceServiceServicer_to_server,
)

from services.common.errors import Kind, MeshError
from services.common.grpc.around import Context, Interceptor
from services.common.grpc.caller import deadline
from services.common.grpc.errors import errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer: its pieces of text, then its calls, then `failure` or the end."""

    texts: Sequence[str] = ()
    thinking: str = ""
    calls: Sequence[tuple[str, str]] = ()  # Name, and arguments as JSON text.
    failure: Exception | None = None
    reason: pb.FinishReason = pb.FINISH_REASON_STOP
    prompt_token_count: int = 10
    output_token_count: int = 5
    hold: asyncio.Event | None = None  # Waits for it before the last piece of text, or before the end.
    pause_s: float = 0.0  # Before each piece of text.


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    request: pb.ChatRequest
    authorization: str
    remaining_s: float


class StreamCancelled(MeshError):
    kind, reason, message = Kind.CANCELLED, "STREAM_CANCELLED", "the stream was cancelled"


@dataclass(slots=True)
class FakeInference(InferenceServiceServicer):
    script: list[Reply] = field(default_factory=list)
    otherwise: Reply = field(default_factory=lambda: Reply(texts=["ok"]))
    brain: Callable[[pb.ChatRequest], Reply] | None = None
    asked: list[Asked] = field(default_factory=list)
    running: int = 0
    left: set[str] = field(default_factory=set)  # Names of answers that were ended for want of a listener.
    target: str = ""

    @classmethod
    @asynccontextmanager
    async def serving(cls) -> AsyncIterator["FakeInference"]:
        fake = cls()
        server = grpc.aio.server(interceptors=[Interceptor([errors("inference.ollamesh")], [deadline()])])
        add_InferenceServiceServicer_to_server(fake, server)
        fake.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            yield fake
        finally:
            await server.stop(None)

    async def Chat(self, request: pb.ChatRequest, context: Context) -> AsyncIterator[pb.ChatResponse]:
        metadata = dict(context.invocation_metadata() or ())
        self.asked.append(
            Asked(
                request=request,
                authorization=str(metadata.get("authorization", "")),
                remaining_s=context.time_remaining() or 0.0,
            )
        )
        if request.request_id in self.left:
            raise StreamCancelled
        reply, is_whole = self._reply(request), False
        self.running += 1
        try:
            async for response in _numbered(reply, request.model):
                yield response
            is_whole = True
        finally:
            self.running -= 1
            if request.request_id and not is_whole and reply.failure is None:
                self.left.add(request.request_id)

    def _reply(self, request: pb.ChatRequest) -> Reply:
        if self.script:
            return self.script.pop(0)
        return self.otherwise if self.brain is None else self.brain(request)


async def _numbered(reply: Reply, model: str) -> AsyncIterator[pb.ChatResponse]:
    sequence = 0
    async for event in _events(reply, model):
        sequence += 1
        event.sequence = sequence
        yield pb.ChatResponse(event=event)


async def _events(reply: Reply, model: str) -> AsyncIterator[pb.CompletionEvent]:
    if isinstance(reply.failure, MeshError) and not reply.texts:
        raise reply.failure
    yield pb.CompletionEvent(opened=pb.CompletionEvent.Opened(stream_id="s"))
    yield pb.CompletionEvent(queued=pb.CompletionEvent.Queued(ahead_count=1))
    yield pb.CompletionEvent(started=pb.CompletionEvent.Started(model=model))
    if reply.thinking:
        yield pb.CompletionEvent(delta=pb.CompletionEvent.Delta(thinking=reply.thinking, token_count=1))
    for place, text in enumerate(reply.texts, 1):
        if reply.hold and place == len(reply.texts):
            await reply.hold.wait()
        await asyncio.sleep(reply.pause_s)
        yield pb.CompletionEvent(delta=pb.CompletionEvent.Delta(text=text, token_count=1))
    if reply.hold:
        await reply.hold.wait()
    if reply.failure:
        raise reply.failure
    if reply.calls:
        calls = [pb.ToolCall(name=name, arguments_json=arguments) for name, arguments in reply.calls]
        yield pb.CompletionEvent(delta=pb.CompletionEvent.Delta(tool_calls=calls))
    yield pb.CompletionEvent(
        finished=pb.CompletionEvent.Finished(
            reason=pb.FINISH_REASON_TOOL_CALLS if reply.calls else reply.reason,
            usage=pb.TokenUsage(
                prompt_token_count=reply.prompt_token_count, output_token_count=reply.output_token_count
            ),
        )
    )
