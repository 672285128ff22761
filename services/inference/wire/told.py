"""What was told in frames, read from them again: to share them, to go on from them, to keep an answer."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ollamesh.inference.v1 import completion_pb2 as pb
from ollamesh.inference.v1.completion_pb2 import ChatResponse

from services.inference.broadcast import Dress
from services.inference.completion import Durability, Started
from services.inference.core.usage import Usage
from services.inference.frame_log import FrameLog
from services.inference.repetition import Repetition
from services.inference.wire.events import DURABILITIES


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What frames say of an answer."""

    started: Started | None
    text: str
    thinking: str
    token_count: int
    has_calls: bool
    is_whole: bool  # Whether its last event says that it has finished.


def events(frames: Iterable[bytes]) -> Iterator[pb.CompletionEvent]:
    """Return the events that frames carry."""
    return (ChatResponse.FromString(frame).event for frame in frames)


def told(log: FrameLog) -> Told:
    """Return what a log says, which must hold its first frame."""
    started, text, thinking, token_count, has_calls, is_whole = None, "", "", 0, False, False
    for event in events(log.after(0)):
        if event.HasField("started"):
            one = event.started
            started = Started(model=one.model, model_digest=one.model_digest, instance=one.instance)
        elif event.HasField("delta"):
            text += event.delta.text
            thinking += event.delta.thinking
            token_count += event.delta.token_count
            has_calls = has_calls or bool(event.delta.tool_calls)
        is_whole = event.HasField("finished")
    return Told(
        started=started,
        text=text,
        thinking=thinking,
        token_count=token_count,
        has_calls=has_calls,
        is_whole=is_whole,
    )


def finished_usage(log: FrameLog) -> Usage:
    """Return the tokens of an answer whose last frame says that it has finished; none if it does not."""
    usage = next((event.finished.usage for event in events(log.after(log.last - 1))), pb.TokenUsage())
    return Usage(prompt_token_count=usage.prompt_token_count, output_token_count=usage.output_token_count)


def repetition(log: FrameLog) -> Repetition:
    """Return what an answer that is given again has to begin with."""
    found = told(log)
    return Repetition(text=found.text, thinking=found.thinking, token_count=found.token_count)


def joined(stream_id: str, durability: Durability) -> Dress:
    """Return how another one's frames are told to who has joined: under its own name, and as what they are.

    Deltas are told as they are; so the numbers, and the bytes of the answer, are the same for all.
    """

    def dress(frame: bytes) -> bytes:
        response = ChatResponse.FromString(frame)
        match response.event.WhichOneof("event"):
            case "opened":
                response.event.opened.stream_id = stream_id
                response.event.opened.durability = DURABILITIES[durability]
            case "started":
                response.event.started.source = pb.ANSWER_SOURCE_JOINED
            case "queued":
                """It was true of both."""
            case _:
                return frame
        return response.SerializeToString()

    return dress
