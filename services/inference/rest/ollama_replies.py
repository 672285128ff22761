"""Answers as Ollama's API has them: what is empty or zero is left out where Go's `omitempty` leaves it out.

There is one line for each token, so that of a plain piece of text is put together from parts that are the same in all.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from time import time_ns

from google.protobuf.duration_pb2 import Duration
from msgspec import Raw
from ollamesh.inference.v1 import completion_pb2 as pb

from services.inference.embeddings import Answer as Embedded
from services.inference.rest.bodies import encode
from services.inference.rest.calls import Event, Finished
from services.inference.rest.whole import Whole

Json = dict[str, object]
_DONE_REASONS = {pb.FINISH_REASON_LENGTH: "length"}  # Ollama has no other word for tool calls than "stop".


def now() -> str:
    """Return the time with its nanoseconds, as Go writes it."""
    second, nanosecond = divmod(time_ns(), 1_000_000_000)
    return f"{_second(second)}.{nanosecond:09d}Z"


class Lines:
    """The objects of one completion: of `chat`, or else of `generate`."""

    def __init__(self, model: str, *, chat: bool) -> None:
        self._model, self._chat = model, chat
        self._call_count = 0
        self._head = b'{"model":' + encode(model) + b',"created_at":"'
        self._middle = b'","message":{"role":"assistant","content":' if chat else b'","response":'
        self._tail = b'},"done":false}\n' if chat else b',"done":false}\n'

    def line(self, event: Event) -> bytes:
        """Return the line of a stream that tells an event."""
        if event.HasField("finished"):
            return encode(self._object(Whole()) | _end(event.finished)) + b"\n"
        delta = event.delta
        if delta.thinking or delta.tool_calls or delta.logprobs:
            whole = Whole()
            whole.add(delta)
            return encode(self._object(whole) | {"done": False} | _logprobs(whole)) + b"\n"
        return b"".join((self._head, now().encode(), self._middle, encode(delta.text), self._tail))

    def whole(self, whole: Whole, finished: Finished) -> bytes:
        """Return the one object of a completion that is not streamed."""
        return encode(self._object(whole) | _end(finished) | _logprobs(whole))

    def loaded(self, reason: str) -> bytes:
        """Return the object that tells of a model that was loaded, or is to go."""
        return encode(self._object(Whole()) | {"done": True, "done_reason": reason})

    def _object(self, whole: Whole) -> Json:
        common: Json = {"model": self._model, "created_at": now()}
        thinking = {"thinking": whole.thinking} if whole.thinking else {}
        calls = {"tool_calls": self._tool_calls(whole.tool_calls)} if whole.tool_calls else {}
        if not self._chat:
            return {**common, "response": whole.text, **thinking, **calls}
        return {**common, "message": {"role": "assistant", "content": whole.text, **thinking, **calls}}

    def _tool_calls(self, calls: Sequence[pb.ToolCall]) -> list[Json]:
        made: list[Json] = []
        for call in calls:
            arguments = Raw(call.arguments_json.encode() or b"{}")
            function = {"index": self._call_count, "name": call.name, "arguments": arguments}
            made.append({"id": call.id, "function": function})
            self._call_count += 1
        return made


def embedded(model: str, found: Embedded, total_ns: int) -> Json:
    """Return the answer of `embed`."""
    count = found.prompt_token_count
    return {
        "model": model,
        "embeddings": [list(vector) for vector in found.vectors],
        "total_duration": total_ns,
        **({"prompt_eval_count": count} if count else {}),
    }


def failed(text: str) -> bytes:
    """Return the body of a failure, and the last line of a stream that failed."""
    return encode({"error": text})


def nanoseconds(duration: Duration) -> int:
    return duration.ToNanoseconds()


def _end(finished: Finished) -> Json:
    usage, timings = finished.usage, finished.timings
    counts = {
        "total_duration": nanoseconds(timings.total),
        "load_duration": nanoseconds(timings.load),
        "prompt_eval_count": usage.prompt_token_count,
        "prompt_eval_duration": nanoseconds(timings.prompt),
        "eval_count": usage.output_token_count,
        "eval_duration": nanoseconds(timings.output),
    }
    return {
        "done": True,
        "done_reason": _DONE_REASONS.get(finished.reason, "stop"),
        **({"context": list(finished.context)} if finished.context else {}),
        **{name: count for name, count in counts.items() if count},
    }


def _logprobs(whole: Whole) -> Json:
    return {"logprobs": [_logprob(one) for one in whole.logprobs]} if whole.logprobs else {}


def _logprob(one: pb.TokenLogprob | pb.TopLogprob) -> Json:
    made: Json = {"token": one.token, "logprob": one.logprob}
    if one.token_bytes:
        made["bytes"] = list(one.token_bytes)
    if isinstance(one, pb.TokenLogprob) and one.top:
        made["top_logprobs"] = [_logprob(other) for other in one.top]
    return made


@lru_cache(maxsize=8)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
