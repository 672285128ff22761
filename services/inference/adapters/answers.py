"""Answers of Ollama's API, typed: JSON in, domain out. What is not named here is not read."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import msgspec

from services.inference.core.asks import ToolCall
from services.inference.core.ledger import Card, Resident
from services.inference.ports import EndReason, Outcome, Piece, TokenLogprob

# What msgspec raises for bytes that are not of the shape wanted.
NOT_OF_THE_SHAPE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_NS_PER_S = 1e9
_NEVER_YEAR = 2200  # Ollama writes "never" as now plus 292 years.


class Function(msgspec.Struct):
    name: str
    arguments: dict[str, msgspec.Raw]


class Call(msgspec.Struct):
    function: Function
    id: str | None = None


class ChatMessage(msgspec.Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[Call] | None = None


Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]


class Logprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[Byte] | None = None
    top_logprobs: "list[Logprob] | None" = None


class Line(msgspec.Struct):
    """A line of /api/chat or /api/generate; `response` and `thinking` are the latter's."""

    message: ChatMessage | None = None
    response: str | None = None
    thinking: str | None = None
    error: str | None = None
    done: bool = False
    done_reason: str | None = None
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0
    context: tuple[int, ...] | None = None
    logprobs: list[Logprob] | None = None


# What fits everywhere, the cache included.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class Embeddings(msgspec.Struct):
    embeddings: list[list[float]]
    prompt_eval_count: Count = 0


class Loaded(msgspec.Struct):
    """The one object that answers a load or an unload. Embeddings have no `done`."""

    done: bool = False
    load_duration: int = 0
    error: str | None = None


class Failure(msgspec.Struct):
    error: str = ""


class Version(msgspec.Struct):
    version: str = ""


class Details(msgspec.Struct):
    family: str | None = None
    parameter_size: str | None = None
    quantization_level: str | None = None


# What fits everywhere: an instance that says more is broken.
Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Tag(msgspec.Struct):
    name: str
    digest: str = ""
    size: Size = 0
    modified_at: datetime | None = None
    details: Details | None = None
    capabilities: list[str] | None = None


class Tags(msgspec.Struct):
    models: list[Tag] | None = None


class Process(msgspec.Struct):
    name: str
    digest: str = ""
    size: Size = 0
    size_vram: Size = 0
    context_length: Size = 0
    expires_at: datetime | None = None
    details: Details | None = None


class Processes(msgspec.Struct):
    models: list[Process] | None = None


class Shown(msgspec.Struct):
    template: str | None = None
    license: str | None = None
    model_info: dict[str, object] | None = None


def piece(lines: Sequence[Line]) -> Piece | None:
    """Return what lines that arrived together add to the answer, if anything. Each holds a token or none."""
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    logprobs: list[TokenLogprob] = []
    token_count = 0
    for line in lines:
        message = line.message
        text, thought = (
            (line.response, line.thinking) if message is None else (message.content, message.thinking)
        )
        if text:
            texts.append(text)
        if thought:
            thoughts.append(thought)
        if text or thought:
            token_count += 1
        if message is not None and message.tool_calls:
            calls += map(_tool_call, message.tool_calls)
        if line.logprobs:
            logprobs += map(_logprob, line.logprobs)
    if not (token_count or calls or logprobs):
        return None
    return Piece(
        text="".join(texts),
        thinking="".join(thoughts),
        token_count=token_count,
        tool_calls=tuple(calls),
        logprobs=tuple(logprobs),
    )


def outcome(line: Line) -> Outcome:
    """Return what the last line says."""
    return Outcome(
        reason=EndReason.LENGTH if line.done_reason == "length" else EndReason.STOP,
        prompt_token_count=line.prompt_eval_count,
        output_token_count=line.eval_count,
        load_s=line.load_duration / _NS_PER_S,
        prompt_s=line.prompt_eval_duration / _NS_PER_S,
        output_s=line.eval_duration / _NS_PER_S,
        context=line.context or (),
    )


def load_s(loaded: Loaded) -> float:
    """Return how long the instance says that a load took; 0 if it does not say."""
    return loaded.load_duration / _NS_PER_S


def card(tag: Tag) -> Card:
    details = tag.details or Details()
    return Card(
        name=tag.name,
        digest=tag.digest,
        size_bytes=tag.size,
        family=details.family or "",
        parameter_size=details.parameter_size or "",
        quantization=details.quantization_level or "",
        capabilities=frozenset(tag.capabilities or ()),
        modified_at=tag.modified_at,
    )


def resident(process: Process) -> Resident:
    expires_at = process.expires_at
    return Resident(
        name=process.name,
        digest=process.digest,
        size_bytes=process.size,
        vram_bytes=process.size_vram,
        context_token_count=process.context_length,
        quantization=(process.details or Details()).quantization_level or "",
        expires_at=expires_at if expires_at and expires_at.year < _NEVER_YEAR else None,
    )


def context_token_count_max(shown: Shown) -> int:
    """Return the context a model was made for; its key is prefixed with the architecture."""
    for name, value in (shown.model_info or {}).items():
        if name.endswith(".context_length") and isinstance(value, int):
            return value
    return 0


def _logprob(one: Logprob) -> TokenLogprob:
    return TokenLogprob(
        token=one.token,
        logprob=one.logprob,
        token_bytes=one.token.encode() if one.bytes is None else bytes(one.bytes),
        top=tuple(map(_logprob, one.top_logprobs or ())),
    )


def _tool_call(call: Call) -> ToolCall:
    arguments = msgspec.json.encode(call.function.arguments).decode()
    return ToolCall(id=call.id or "", name=call.function.name, arguments_json=arguments)
