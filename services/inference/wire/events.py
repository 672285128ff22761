"""Events and vectors: domain in, protobuf out."""

from datetime import UTC, datetime, timedelta
from math import inf
from typing import assert_never

from google.protobuf.duration_pb2 import Duration
from ollamesh.inference.v1 import completion_pb2 as pb
from ollamesh.inference.v1.inference_service_pb2 import Embedding, EmbedResponse

from services.inference.arrived import Delta
from services.inference.completion import Durability, Event, Finished, Opened, Queued, Source, Started
from services.inference.embeddings import Answer
from services.inference.ports import EndReason, TokenLogprob

DURABILITIES = {
    Durability.NONE: pb.STREAM_DURABILITY_NONE,
    Durability.GATEWAY: pb.STREAM_DURABILITY_GATEWAY,
    Durability.SHARED: pb.STREAM_DURABILITY_SHARED,
}
_SOURCES = {
    Source.MODEL: pb.ANSWER_SOURCE_MODEL,
    Source.CACHE: pb.ANSWER_SOURCE_CACHE,
}
_REASONS = {
    EndReason.STOP: pb.FINISH_REASON_STOP,
    EndReason.LENGTH: pb.FINISH_REASON_LENGTH,
}


def event(numbered: Event) -> pb.CompletionEvent:
    made = pb.CompletionEvent(sequence=numbered.sequence)
    match numbered.body:
        case Delta(text, thinking, tool_calls, token_count, logprobs):
            made.delta.text = text
            made.delta.thinking = thinking
            made.delta.token_count = token_count
            for call in tool_calls:
                made.delta.tool_calls.add(id=call.id, name=call.name, arguments_json=call.arguments_json)
            made.delta.logprobs.extend(map(_logprob, logprobs))
        case Opened(stream_id, durability):
            made.opened.stream_id = stream_id
            made.opened.durability = DURABILITIES[durability]
        case Queued(ahead_count, wait_s):
            made.queued.ahead_count = ahead_count
            if wait_s < inf:
                made.queued.estimated_start_time.FromDatetime(datetime.now(UTC) + timedelta(seconds=wait_s))
        case Started() as started:
            made.started.model = started.model
            made.started.model_digest = started.model_digest
            made.started.instance = started.instance
            made.started.source = _SOURCES[started.source]
        case Finished() as finished:
            made.finished.CopyFrom(_finished(finished))
        case _:
            assert_never(numbered.body)
    return made


def embed_response(answer: Answer) -> EmbedResponse:
    return EmbedResponse(
        embeddings=[Embedding(values=vector) for vector in answer.vectors],
        model=answer.model,
        usage=pb.TokenUsage(prompt_token_count=answer.prompt_token_count),
        cached_count=answer.cached_count,
    )


def duration(seconds: float) -> Duration:
    made = Duration()
    made.FromNanoseconds(round(seconds * 1e9))
    return made


def _logprob(one: TokenLogprob) -> pb.TokenLogprob:
    return pb.TokenLogprob(
        token=one.token,
        logprob=one.logprob,
        token_bytes=one.token_bytes,
        top=[
            pb.TopLogprob(token=other.token, logprob=other.logprob, token_bytes=other.token_bytes)
            for other in one.top
        ],
    )


def _finished(finished: Finished) -> pb.CompletionEvent.Finished:
    outcome = finished.outcome
    return pb.CompletionEvent.Finished(
        reason=pb.FINISH_REASON_TOOL_CALLS if finished.called_tools else _REASONS[outcome.reason],
        usage=pb.TokenUsage(
            prompt_token_count=outcome.prompt_token_count, output_token_count=outcome.output_token_count
        ),
        timings=pb.Timings(
            queue=duration(finished.queue_s),
            load=duration(outcome.load_s),
            prompt=duration(outcome.prompt_s),
            output=duration(outcome.output_s),
            total=duration(finished.total_s),
        ),
        context=outcome.context,
    )
