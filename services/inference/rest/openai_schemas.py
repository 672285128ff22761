"""The bodies that OpenAI's API accepts, as far as they are served. What is not named here is ignored (docs/rest.md)."""

from msgspec import Raw, Struct, field


class FunctionCall(Struct):
    name: str
    arguments: str = "{}"


class ToolCall(Struct, kw_only=True):
    id: str = ""
    type: str = "function"
    function: FunctionCall


class ImageUrl(Struct):
    url: str


class Part(Struct, kw_only=True):
    """A part of a message's content. Which of the fields are there depends on `type`."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | str | None = None


class Message(Struct, kw_only=True):
    role: str
    content: str | list[Part] | None = None
    reasoning: str | None = None  # Of an earlier answer, as this server gave it.
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class Function(Struct, kw_only=True):
    name: str
    description: str | None = None
    parameters: Raw = field(default_factory=Raw)


class Tool(Struct, kw_only=True):
    type: str
    function: Function | None = None


class JsonSchema(Struct, kw_only=True):
    name: str = ""
    schema_: Raw = field(default_factory=Raw, name="schema")


class ResponseFormat(Struct, kw_only=True):
    type: str
    json_schema: JsonSchema | None = None


class StreamOptions(Struct):
    include_usage: bool | None = None


class Sampling(Struct, kw_only=True):
    """What both kinds of completion share."""

    model: str = ""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    max_tokens: int | None = None
    n: int | None = None
    logit_bias: dict[str, float] | None = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream and self.stream_options and self.stream_options.include_usage)


class Reasoning(Struct):
    effort: str | None = None


class ChatCall(Sampling, kw_only=True):
    messages: list[Message]
    max_completion_tokens: int | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, object] | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None
    reasoning: Reasoning | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    # What is only looked at to refuse it.
    functions: Raw = field(default_factory=Raw)
    function_call: Raw = field(default_factory=Raw)
    modalities: list[str] | None = None
    audio: Raw = field(default_factory=Raw)
    web_search_options: Raw = field(default_factory=Raw)


class CompletionCall(Sampling, kw_only=True):
    prompt: str | list[object] | None = None  # Texts or tokens.
    suffix: str | None = None
    logprobs: int | None = None
    echo: bool | None = None
    best_of: int | None = None


class EmbeddingCall(Struct, kw_only=True):
    model: str = ""
    input: str | list[object]
    encoding_format: str | None = None
    dimensions: int | None = None
