"""Answers as OpenAI's API has them.

There is one event for each token, so that of a plain piece of text is put together from parts that are the same in all.
"""

import base64
from array import array
from collections.abc import Iterable, Sequence
from time import time
from typing import Protocol

from ollamesh.inference.v1 import completion_pb2 as pb

from services.inference.core.ledger import Card
from services.inference.embeddings import Answer as Embedded
from services.inference.rest.bodies import encode
from services.inference.rest.calls import Delta, Event, Finished
from services.inference.rest.whole import Whole

Json = dict[str, object]
DONE = b"data: [DONE]\n\n"
_REASONS = {
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: "length",
    pb.FINISH_REASON_TOOL_CALLS: "tool_calls",
}


def told(value: Json) -> bytes:
    """Return one server-sent event."""
    return b"data: " + encode(value) + b"\n\n"


class Named(Protocol):
    """What tells one completion from another."""

    @property
    def stream_id(self) -> str: ...

    @property
    def model_digest(self) -> str: ...


class Chunks:
    """The objects of one completion: of a chat, or else of a text. `usage` adds one that counts tokens."""

    def __init__(
        self, answer: Named, model: str, *, chat: bool, usage: bool, created_s: int | None = None
    ) -> None:
        self._chat = chat
        self._usage: Json = {"usage": None} if usage else {}
        self._call_count = self._text_length = 0
        object_ = "chat.completion" if chat else "text_completion"
        self._common: Json = {
            "id": ("chatcmpl-" if chat else "cmpl-") + answer.stream_id,
            "object": f"{object_}.chunk" if chat else object_,
            "created": int(time()) if created_s is None else created_s,
            "model": model,
            "system_fingerprint": f"fp_{answer.model_digest[:10]}",
        }
        self._whole_object = object_
        self._head, self._tail = self._frame()

    def first(self) -> bytes:
        """Return the event that begins a stream; a text needs none."""
        return self._event({"role": "assistant", "content": ""}) if self._chat else b""

    def events(self, event: Event) -> bytes:
        """Return the events of a stream that tell one of ours, the last ones included."""
        if event.HasField("finished"):
            return self._last(event.finished)
        delta = event.delta
        if delta.thinking or delta.tool_calls or delta.logprobs:
            return self._rich(delta)
        self._text_length += len(delta.text)
        return b"".join((self._head, encode(delta.text), self._tail))

    def whole(self, whole: Whole, finished: Finished) -> bytes:
        """Return the one object of a completion that is not streamed."""
        text, reason = whole.text, _REASONS[finished.reason]
        if self._chat:
            calls = self._tool_calls(whole.tool_calls)
            message: Json = {
                "role": "assistant",
                "content": text if text or not calls else None,
                "refusal": None,
                **({"reasoning": whole.thinking} if whole.thinking else {}),
                **({"tool_calls": calls} if calls else {}),
            }
            choice: Json = {"index": 0, "message": message}
        else:
            choice = {"text": text, "index": 0}
        choice |= {"logprobs": self._logprobs(whole.logprobs), "finish_reason": reason}
        return encode(
            {**self._common, "object": self._whole_object, "choices": [choice], "usage": _usage(finished)}
        )

    def _rich(self, delta: Delta) -> bytes:
        """An event for a delta that is more than text."""
        logprobs = self._logprobs(delta.logprobs)
        self._text_length += len(delta.text)
        if not self._chat:
            return self._event({"text": delta.text}, logprobs=logprobs) if delta.text or logprobs else b""
        change: Json = {"reasoning": delta.thinking} if delta.thinking else {}
        if delta.text:
            change["content"] = delta.text
        if delta.tool_calls:
            change["tool_calls"] = [
                {"index": self._call_count + place, **call}
                for place, call in enumerate(self._tool_calls(delta.tool_calls))
            ]
            self._call_count += len(delta.tool_calls)
        return self._event(change, logprobs=logprobs)

    def _last(self, finished: Finished) -> bytes:
        end = self._event({} if self._chat else {"text": ""}, reason=_REASONS[finished.reason])
        counted = told({**self._common, "choices": [], "usage": _usage(finished)}) if self._usage else b""
        return end + counted + DONE

    def _event(self, change: Json, *, logprobs: Json | None = None, reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": change} if self._chat else {**change, "index": 0}
        choice |= {"logprobs": logprobs, "finish_reason": reason}
        return told({**self._common, "choices": [choice], **self._usage})

    def _frame(self) -> tuple[bytes, bytes]:
        """What comes before and after the text of a plain event: a mark is put in its place, and cut out."""
        mark = "\N{SYMBOL FOR NULL}" * 3
        head, _, tail = self._event({"content" if self._chat else "text": mark}).rpartition(encode(mark))
        return head, tail

    def _tool_calls(self, calls: Iterable[pb.ToolCall]) -> list[Json]:
        return [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments_json or "{}"},
            }
            for call in calls
        ]

    def _logprobs(self, found: Sequence[pb.TokenLogprob]) -> Json | None:
        if not found:
            return None
        if self._chat:
            return {"content": [_logprob(one) for one in found], "refusal": None}
        offsets, offset = [], self._text_length
        for one in found:
            offsets.append(offset)
            offset += len(one.token)
        return {
            "tokens": [one.token for one in found],
            "token_logprobs": [one.logprob for one in found],
            "top_logprobs": [{other.token: other.logprob for other in one.top} for one in found],
            "text_offset": offsets,
        }


def embeddings(model: str, found: Embedded, *, as_base64: bool) -> Json:
    """Return the answer to a request for vectors."""
    count = found.prompt_token_count
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": place,
                "embedding": _floats(vector) if as_base64 else list(vector),
            }
            for place, vector in enumerate(found.vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }


def model(card: Card) -> Json:
    """Return a model. Who owns it is the namespace of its name, as Ollama has it."""
    path = card.name.rpartition("/")[0]
    created = int(card.modified_at.timestamp()) if card.modified_at else 0
    return {
        "id": card.name,
        "object": "model",
        "created": created,
        "owned_by": path.rpartition("/")[2] or "library",
    }


def models(cards: Iterable[Card]) -> Json:
    return {"object": "list", "data": [model(card) for card in cards]}


def _usage(finished: Finished) -> Json:
    usage = finished.usage
    return {
        "prompt_tokens": usage.prompt_token_count,
        "completion_tokens": usage.output_token_count,
        "total_tokens": usage.prompt_token_count + usage.output_token_count,
    }


def _logprob(one: pb.TokenLogprob) -> Json:
    tops = [
        {"token": other.token, "logprob": other.logprob, "bytes": list(other.token_bytes)}
        for other in one.top
    ]
    return {
        "token": one.token,
        "logprob": one.logprob,
        "bytes": list(one.token_bytes),
        "top_logprobs": tops,
    }


def _floats(vector: Sequence[float]) -> str:
    """Numbers of 32 bits, the lowest byte first: that of every machine this runs on."""
    return base64.b64encode(array("f", vector).tobytes()).decode()
