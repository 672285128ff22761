"""What the routes need of whatever runs the models: this runtime, or the test suite's fake."""

from collections.abc import AsyncGenerator, AsyncIterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, TypeAlias

from deploy.local.runtime.wire.replies import Details, ProgressReply
from deploy.local.runtime.wire.requests import (
    ChatRequest,
    CreateRequest,
    GenerateRequest,
    ModelRequest,
    ToolCall,
)

Capability: TypeAlias = Literal["completion", "tools", "embedding", "insert", "thinking", "vision"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """An installed model, as `tags` and `show` present it."""

    name: str  # Full: `model:tag`.
    aliases: tuple[str, ...] = ()  # Full names too.
    digest: str
    size_bytes: int
    modified_at: datetime
    details: Details
    capabilities: tuple[Capability, ...]
    context_length_default: int
    info: Mapping[str, str | int | float]
    template: str = ""
    licence: str = ""

    def answers_to(self, full_name: str) -> bool:
        return full_name == self.name or full_name in self.aliases


@dataclass(frozen=True, slots=True)
class LoadedCard:
    card: ModelCard
    expires_at: datetime
    context_length: int
    vram_bytes: int = 0  # Without a GPU there is none.


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The last piece of a completion that succeeded. Ollama hands out tool calls here, whole."""

    reason: Literal["stop", "length"]
    prompt_eval_count: int
    prompt_eval_ns: int
    eval_count: int
    eval_ns: int
    load_ns: int
    calls: Sequence[ToolCall] = ()
    context: Sequence[int] = ()


Piece: TypeAlias = Text | Thought | Finished
Pieces: TypeAlias = AsyncGenerator[Piece, None]


@dataclass(frozen=True, slots=True)
class Embedded:
    vectors: Sequence[list[float]]
    prompt_eval_count: int
    load_ns: int


class Shelf(Protocol):
    """What is installed, and how that changes. Every method raises WireError."""

    def pull(self, name: str) -> AsyncGenerator[ProgressReply, None]: ...

    def create(self, request: CreateRequest) -> AsyncGenerator[ProgressReply, None]: ...

    def delete(self, card: ModelCard) -> None: ...

    def copy(self, card: ModelCard, full_name: str) -> None: ...

    def has_blob(self, digest: str) -> bool: ...

    async def put_blob(self, digest: str, chunks: AsyncIterable[bytes]) -> None: ...


class Backend(Protocol):
    """Every method raises WireError. Closing a generator stops the work behind it.

    `chat` and `generate` are called with a prompt, `embed` with at least one text.
    """

    def installed(self) -> Sequence[ModelCard]: ...

    def loaded(self) -> Sequence[LoadedCard]: ...

    def chat(self, card: ModelCard, request: ChatRequest) -> Pieces: ...

    def generate(self, card: ModelCard, request: GenerateRequest) -> Pieces: ...

    async def embed(
        self, card: ModelCard, texts: Sequence[str], request: ModelRequest, *, truncate: bool
    ) -> Embedded: ...

    async def load(self, card: ModelCard, request: ModelRequest) -> None: ...

    async def unload(self, card: ModelCard) -> None: ...
