"""A chat as Python values: what is asked, and the events in which the answer arrives.

The grammar is the proto's (ollamesh/inference/v1/completion.proto): Opened Queued* Started Delta* Finished.
Tools, images and formats are for agents and for the stubs (Client.stream takes any request).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ollamesh.client.values import seconds, time
from ollamesh.inference.v1 import completion_pb2 as pb

Role = Literal["system", "user", "assistant"]
AnswerSource = Literal["model", "joined", "cache", "unknown"]
FinishReason = Literal["stop", "length", "unknown"]

ROLES: Mapping[Role, pb.Role] = {
    "system": pb.ROLE_SYSTEM,
    "user": pb.ROLE_USER,
    "assistant": pb.ROLE_ASSISTANT,
}
ANSWER_SOURCES: Mapping[int, AnswerSource] = {
    pb.ANSWER_SOURCE_MODEL: "model",
    pb.ANSWER_SOURCE_JOINED: "joined",
    pb.ANSWER_SOURCE_CACHE: "cache",
}
FINISH_REASONS: Mapping[int, FinishReason] = {
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: "length",
}


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to sample. What is None is the model's own default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    output_token_count_max: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The request was accepted."""

    sequence: int
    stream_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """No slot is free yet; `ahead_count` requests go first."""

    sequence: int
    ahead_count: int
    estimated_start_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The model is at work."""

    sequence: int
    model: str
    model_digest: str
    instance: str
    source: AnswerSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What has arrived since the event before: append `text` to the answer."""

    sequence: int
    text: str
    thinking: str
    token_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The answer is complete. `output_s` is the time that the model spent writing it."""

    sequence: int
    reason: FinishReason
    prompt_token_count: int
    output_token_count: int
    queue_s: float
    load_s: float
    prompt_s: float
    output_s: float
    total_s: float


Event = Opened | Queued | Started | Delta | Finished


def request_of(model: str, messages: Sequence[Message], options: Options) -> pb.ChatRequest:
    return pb.ChatRequest(
        model=model,
        messages=[pb.Message(role=ROLES[message.role], content=message.content) for message in messages],
        options=pb.Options(
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            seed=options.seed,
            output_token_count_max=options.output_token_count_max,
            stop=options.stop,
        ),
    )


def event_of(message: pb.CompletionEvent) -> Event | None:
    """Translate an event; None for a kind that is newer than this client."""
    sequence = message.sequence
    match message.WhichOneof("event"):
        case "opened":
            return Opened(sequence=sequence, stream_id=message.opened.stream_id)
        case "queued":
            return Queued(
                sequence=sequence,
                ahead_count=message.queued.ahead_count,
                estimated_start_time=time(message.queued.estimated_start_time),
            )
        case "started":
            return _started(sequence, message.started)
        case "delta":
            delta = message.delta
            return Delta(
                sequence=sequence,
                text=delta.text,
                thinking=delta.thinking,
                token_count=delta.token_count,
            )
        case "finished":
            return _finished(sequence, message.finished)
        case _:
            return None


def _started(sequence: int, started: pb.CompletionEvent.Started) -> Started:
    return Started(
        sequence=sequence,
        model=started.model,
        model_digest=started.model_digest,
        instance=started.instance,
        source=ANSWER_SOURCES.get(started.source, "unknown"),
    )


def _finished(sequence: int, finished: pb.CompletionEvent.Finished) -> Finished:
    return Finished(
        sequence=sequence,
        reason=FINISH_REASONS.get(finished.reason, "unknown"),
        prompt_token_count=finished.usage.prompt_token_count,
        output_token_count=finished.usage.output_token_count,
        queue_s=seconds(finished.timings.queue),
        load_s=seconds(finished.timings.load),
        prompt_s=seconds(finished.timings.prompt),
        output_s=seconds(finished.timings.output),
        total_s=seconds(finished.timings.total),
    )
