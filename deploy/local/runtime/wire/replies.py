"""The objects that Ollama's API answers with.

A field that has a default here is left out while it has it, which is what Go's `omitempty` does; a field
without one is always there.
"""

from datetime import datetime

import msgspec
from msgspec import Struct

from deploy.local.runtime.wire.requests import ToolCall


class Message(Struct, omit_defaults=True, kw_only=True):
    role: str
    content: str
    thinking: str = ""
    tool_calls: list[ToolCall] = []


class CompletionReply(Struct, omit_defaults=True, kw_only=True):
    """A piece, or with `done` the end, which alone has metrics. Durations are nanoseconds."""

    model: str
    created_at: datetime
    done: bool
    done_reason: str = ""
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0


class ChatReply(CompletionReply, omit_defaults=True, kw_only=True):
    message: Message


class GenerateReply(CompletionReply, omit_defaults=True, kw_only=True):
    response: str
    thinking: str = ""
    context: list[int] = []


class EmbedReply(Struct, omit_defaults=True, kw_only=True):
    model: str
    embeddings: list[list[float]]
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0


class EmbeddingReply(Struct):
    embedding: list[float]


class Details(Struct, kw_only=True):
    parent_model: str = ""
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class ListedModel(Struct, kw_only=True):
    name: str
    model: str
    modified_at: datetime
    size: int
    digest: str
    details: Details
    capabilities: list[str]


class TagsReply(Struct):
    models: list[ListedModel]


class LoadedModel(Struct, kw_only=True):
    name: str
    model: str
    size: int
    digest: str
    details: Details
    expires_at: datetime
    size_vram: int
    context_length: int


class PsReply(Struct):
    models: list[LoadedModel]


class ShowReply(Struct, omit_defaults=True, kw_only=True):
    license: str = ""
    modelfile: str = ""
    parameters: str = ""
    template: str = ""
    details: Details
    model_info: dict[str, str | int | float]
    capabilities: list[str]
    modified_at: datetime


class VersionReply(Struct):
    version: str


class ProgressReply(Struct, omit_defaults=True):
    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


class ErrorReply(Struct):
    error: str


def encode(reply: Struct | msgspec.Raw) -> bytes:
    return msgspec.json.encode(reply)


def encode_line(reply: Struct | msgspec.Raw) -> bytes:
    """One line of a stream."""
    return encode(reply) + b"\n"
