"""What callers ask of a model, in the domain's own words.

JSON that only passes through (schemas, arguments) stays JSON text: it was checked where it came in, and
parsing it into objects would only cost.
"""

from dataclasses import dataclass
from enum import Enum


class Role(Enum):
    """Who speaks. The values are Ollama's."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call that a model wants made. `arguments_json` is a JSON object."""

    id: str = ""
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """Something a model may call. `parameters_json` is a JSON Schema of an object."""

    name: str
    description: str
    parameters_json: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation. `tool_name` and `tool_call_id` belong to Role.TOOL."""

    role: Role
    content: str
    thinking: str = ""
    images: tuple[bytes, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str = ""
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to sample; what is None is the model's own default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    output_token_count_max: int | None = None
    stop: tuple[str, ...] = ()
    repeat_penalty: float | None = None
    repeat_last_token_count: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    context_token_count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """Asks for the next message. `format_json` is `"json"` or a JSON Schema; `think` as in Ollama's API.

    `keep_alive_s` is a hint; a negative one is "for ever". `top_logprob_count` alternatives are wanted
    beside each token, if `logprobs` are wanted at all.
    """

    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    format_json: str | None = None
    options: Options = Options()
    think: bool | str | None = None
    logprobs: bool = False
    top_logprob_count: int = 0
    keep_alive_s: float | None = None
    conversation_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate:
    """Asks for the continuation of a text. What it shares with Chat means the same."""

    model: str
    prompt: str
    suffix: str = ""
    system: str = ""
    context: tuple[int, ...] = ()
    raw: bool = False
    images: tuple[bytes, ...] = ()
    format_json: str | None = None
    options: Options = Options()
    think: bool | str | None = None
    logprobs: bool = False
    top_logprob_count: int = 0
    keep_alive_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Embed:
    """Asks for vectors, one per input."""

    model: str
    inputs: tuple[str, ...]
    truncate: bool = True
    dimension_count: int | None = None
    keep_alive_s: float | None = None


Ask = Chat | Generate | Embed
