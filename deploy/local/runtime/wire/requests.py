"""The bodies that Ollama's API accepts. Unknown fields are ignored, as Ollama does."""

from typing import TypeAlias, TypeVar

import msgspec
from msgspec import Raw, Struct

from deploy.local.runtime.errors import InvalidFormatError, MalformedBodyError, MissingBodyError
from deploy.local.runtime.wire.durations import keep_alive_s
from deploy.local.runtime.wire.options import Options, parse_options

Json: TypeAlias = dict[str, object]

Body = TypeVar("Body", bound=Struct)


class FunctionCall(Struct, omit_defaults=True):
    name: str
    arguments: dict[str, object]
    index: int | None = None  # None only where a client leaves it out.


class ToolCall(Struct, omit_defaults=True):
    function: FunctionCall
    id: str = ""


class Message(Struct, kw_only=True):
    role: str
    content: str | None = None
    images: list[str] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None

    @property
    def text(self) -> str:
        return self.content or ""


class Function(Struct, kw_only=True):
    name: str
    description: str | None = None
    parameters: dict[str, object] | None = None


class Tool(Struct, kw_only=True):
    function: Function
    type: str = "function"


class ModelRequest(Struct, kw_only=True):
    """What every request that runs a model has."""

    model: str = ""
    keep_alive: float | str | None = None
    options: dict[str, object] | None = None

    @property
    def keep_alive_s(self) -> float | None:
        """None: as it was. Raises MalformedBodyError."""
        return None if self.keep_alive is None else keep_alive_s(self.keep_alive)

    @property
    def parsed_options(self) -> Options:
        """Raises OptionTypeError."""
        return parse_options(self.options)


class CompletionRequest(ModelRequest, kw_only=True):
    """What `chat` and `generate` share."""

    stream: bool | None = None
    format: Raw = msgspec.field(default_factory=Raw)
    think: bool | str | None = None

    @property
    def streamed(self) -> bool:
        return self.stream is not False

    @property
    def schema(self) -> Json | None:
        """The JSON schema that the answer must match. Raises InvalidFormatError."""
        raw = bytes(self.format)
        if raw in {b"", b"null", b'""'}:
            return None
        if raw == b'"json"':
            return {"type": "object"}
        try:
            return msgspec.json.decode(raw, type=dict[str, object])
        except msgspec.ValidationError as error:
            raise InvalidFormatError(raw) from error


class ChatRequest(CompletionRequest, kw_only=True):
    messages: list[Message] | None = None
    tools: list[Tool] | None = None
    truncate: bool | None = None


class GenerateRequest(CompletionRequest, kw_only=True):
    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    raw: bool = False
    context: list[int] | None = None


class EmbedRequest(ModelRequest, kw_only=True):
    input: object = None
    truncate: bool | None = None
    dimensions: int = 0


class EmbeddingRequest(ModelRequest, kw_only=True):
    prompt: str = ""


class NamedRequest(Struct, kw_only=True):
    """`show`, `pull`, `delete`, `create`; `name` is the field's old name."""

    model: str = ""
    name: str = ""
    stream: bool | None = None

    @property
    def target(self) -> str:
        return self.model or self.name


class CreateRequest(NamedRequest, kw_only=True):
    source: str = msgspec.field(name="from", default="")
    files: dict[str, str] = {}  # Digests of blobs, by file name.


class CopyRequest(Struct, kw_only=True):
    source: str = ""
    destination: str = ""


def parse(body: bytes, kind: type[Body]) -> Body:
    """Raises MissingBodyError, MalformedBodyError."""
    if not body.strip():
        raise MissingBodyError
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise MalformedBodyError(str(error)) from error
