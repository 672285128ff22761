"""Requests of Ollama's API: JSON in, our requests out. Unknown fields are ignored, as Ollama does."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from msgspec import Raw, Struct
from ollamesh.inference.v1 import completion_pb2 as pb
from ollamesh.inference.v1.inference_service_pb2 import EmbedRequest

from services.inference.rest.calls import says_nothing
from services.inference.rest.durations import seconds
from services.inference.rest.wire import Names, decoded_image, parsed, wrong

# Ollama's names for fields of our requests, in the order in which they are put.
NAMES: Names = [
    (re.compile(r"^options\.output_token_count_max$"), "options.num_predict"),
    (re.compile(r"^options\.context_token_count$"), "options.num_ctx"),
    (re.compile(r"^options\.repeat_last_token_count$"), "options.repeat_last_n"),
    (re.compile(r"^format\.json_schema$"), "format"),
    (re.compile(r"^dimension_count$"), "dimensions"),
    (re.compile(r"(tool_calls\[\d+\])\.arguments_json$"), r"\1.function.arguments"),
    (re.compile(r"(tool_calls\[\d+\])\.name$"), r"\1.function.name"),
    (re.compile(r"(tools\[\d+\])\.parameters_json_schema$"), r"\1.function.parameters"),
    (re.compile(r"(tools\[\d+\])\.(name|description)$"), r"\1.function.\2"),
]
_ROLES: Mapping[str, pb.Role] = {
    "system": pb.ROLE_SYSTEM,
    "user": pb.ROLE_USER,
    "assistant": pb.ROLE_ASSISTANT,
    "tool": pb.ROLE_TOOL,
}
_THINKING: Mapping[bool | str, pb.Thinking] = {
    False: pb.THINKING_OFF,
    True: pb.THINKING_ON,
    "low": pb.THINKING_LOW,
    "medium": pb.THINKING_MEDIUM,
    "high": pb.THINKING_HIGH,
    "max": pb.THINKING_MAX,
}
# Ollama's options by their types. What is not here is ignored: unknown ones, and those that a model is
# loaded with (num_gpu, num_batch, ...), which are the operator's.
_INTEGERS = {
    "top_k": "top_k",
    "seed": "seed",
    "num_predict": "output_token_count_max",
    "repeat_last_n": "repeat_last_token_count",
    "num_ctx": "context_token_count",
}
_FLOATS = {
    name: name
    for name in (
        "temperature",
        "top_p",
        "min_p",
        "repeat_penalty",
        "presence_penalty",
        "frequency_penalty",
    )
}
# These say "as much as there is", or "any", by a number that is none.
_NO_LIMIT = {"num_predict": 1, "seed": 0, "num_ctx": 1}
_INT32_MAX, _INT64_MAX = 2**31 - 1, 2**63 - 1


class FunctionCall(Struct):
    name: str
    arguments: Raw = Raw(b"{}")


class ToolCall(Struct):
    function: FunctionCall
    id: str = ""


class Message(Struct, kw_only=True):
    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class Function(Struct, kw_only=True):
    name: str
    description: str | None = None
    parameters: Raw = Raw(b"")


class Tool(Struct, kw_only=True):
    function: Function
    type: str = "function"


class ModelCall(Struct, kw_only=True):
    """What every request that runs a model has."""

    model: str = ""
    keep_alive: float | str | None = None
    options: dict[str, object] | None = None


class CompletionCall(ModelCall, kw_only=True):
    """What `chat` and `generate` share."""

    stream: bool | None = None
    format: Raw = Raw(b"")
    think: bool | str | None = None
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None

    @property
    def streamed(self) -> bool:
        return self.stream is not False

    @property
    def unloads(self) -> bool:
        """Whether an empty request asks for the model to go."""
        return self.keep_alive is not None and seconds(self.keep_alive, field="keep_alive") == 0


class ChatCall(CompletionCall, kw_only=True):
    messages: list[Message] | None = None
    tools: list[Tool] | None = None


class GenerateCall(CompletionCall, kw_only=True):
    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    images: list[str] | None = None


class EmbedCall(ModelCall, kw_only=True):
    input: str | list[str] | None = None
    truncate: bool | None = None
    dimensions: int | None = None

    @property
    def texts(self) -> list[str]:
        if isinstance(self.input, str):
            return [self.input] if self.input else []
        return self.input or []


class EmbedPromptCall(ModelCall, kw_only=True):
    prompt: str | None = None


class NamedCall(Struct, kw_only=True):
    """`show` and those that change the library; `name` is the field's old name."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None
    insecure: bool | None = None
    verbose: bool | None = None

    @property
    def target(self) -> str:
        """Raises InvalidRequest."""
        found = self.model or self.name
        if not found:
            raise wrong("", "model is required")
        return found


class CopyCall(Struct, kw_only=True):
    source: str = ""
    destination: str = ""


Request = TypeVar("Request", pb.ChatRequest, pb.GenerateRequest)
Call = TypeVar("Call", bound=ModelCall)


def read(data: bytes, kind: type[Call]) -> Call:
    """Return a body that names a model. Raises InvalidRequest."""
    call = parsed(data, kind)
    if not call.model:
        raise wrong("", "model is required")
    if call.keep_alive is not None:
        seconds(call.keep_alive, field="keep_alive")  # The first thing that Ollama looks at.
    return call


def chat(call: ChatCall) -> tuple[pb.ChatRequest, list[int]]:
    """Return the request, and the place that each of its messages has in the call. Raises InvalidRequest."""
    request = pb.ChatRequest(model=call.model, tools=[_tool(tool) for tool in call.tools or ()])
    places = []
    for place, message in enumerate(call.messages or ()):
        made = _message(message, f"messages[{place}]")
        if not says_nothing(made):
            request.messages.append(made)
            places.append(place)
    _common(request, call)
    return request, places


def generate(call: GenerateCall) -> pb.GenerateRequest:
    """Raises InvalidRequest."""
    if call.raw and (call.template or call.system or call.context):
        raise wrong("", "raw mode does not support template, system, or context")
    if call.template:
        raise wrong("template", "is not supported here: a model has one template")
    request = pb.GenerateRequest(
        model=call.model,
        prompt=call.prompt or "",
        suffix=call.suffix or "",
        system=call.system or "",
        raw=call.raw or False,
        images=[_image(image, f"images[{place}]") for place, image in enumerate(call.images or ())],
    )
    with_int32(call.context or (), "context", request.context.extend)
    _common(request, call)
    return request


def embed(call: EmbedCall) -> EmbedRequest:
    """Raises InvalidRequest."""
    request = EmbedRequest(model=call.model, input=call.texts)
    if call.truncate is not None:
        request.truncate = call.truncate
    if call.dimensions:
        request.dimension_count = _int32(call.dimensions, "dimensions")
    _keep(request.keep_alive, call)
    return request


def embed_prompt(call: EmbedPromptCall) -> EmbedRequest:
    """Raises InvalidRequest."""
    request = EmbedRequest(model=call.model, input=[call.prompt or ""])
    _keep(request.keep_alive, call)
    return request


def with_int32(values: Sequence[int], field: str, use: Callable[[Sequence[int]], None]) -> None:
    """Hand numbers to protobuf, which raises at those that do not fit."""
    try:
        use(values)
    except (ValueError, OverflowError):
        raise wrong(field, "must hold numbers of 32 bits") from None


def _common(request: Request, call: CompletionCall) -> None:
    for name in ("truncate", "shift"):
        if getattr(call, name) is False:
            raise wrong(name, "false is not supported here")
    _put_options(request.options, call.options or {})
    _put_format(request.format, bytes(call.format))
    if call.think is not None:
        if call.think not in _THINKING:
            raise wrong("think", 'must be true, false, "low", "medium", "high" or "max"')
        request.thinking = _THINKING[call.think]
    request.logprobs = call.logprobs or False
    if call.logprobs:  # Without them, Ollama does not look at the number.
        request.top_logprobs = _int32(call.top_logprobs or 0, "top_logprobs")
    _keep(request.keep_alive, call)


def _keep(keep_alive: Duration, call: ModelCall) -> None:
    """A hint; see Catalog.keep_alive_s for what it can do."""
    if call.keep_alive is not None:
        keep_alive.SetInParent()
        keep_alive.FromNanoseconds(round(seconds(call.keep_alive, field="keep_alive") * 1e9))


def _put_format(output: pb.OutputFormat, given: bytes) -> None:
    if given in {b"", b"null", b'""'}:
        return
    if given == b'"json"':
        output.json = True
    elif given.startswith(b"{"):
        output.json_schema = given.decode()
    else:
        shown = given[:64].decode(errors="replace")
        raise wrong("format", f'invalid format: {shown}; expected "json" or a valid JSON Schema object')


def _put_options(options: pb.Options, given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value is None:
            continue
        if name in _INTEGERS:
            number = int(_number(name, value, "integer"))  # Go cuts as well.
            if number >= _NO_LIMIT.get(name, number):
                limit = _INT64_MAX if name == "seed" else _INT32_MAX
                setattr(options, _INTEGERS[name], _within(number, f"options.{name}", limit))
        elif name in _FLOATS:
            setattr(options, _FLOATS[name], _float(name, _number(name, value, "float32")))
        elif name == "stop":
            options.stop.extend(_strings(name, value))


def _number(name: str, value: object, wanted: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong("", f'option "{name}" must be of type {wanted}')
    return value


def _float(name: str, number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # An integer that no float is near.
        raise wrong(f"options.{name}", "is out of range") from None


def _strings(name: str, value: object) -> list[str]:
    if not isinstance(value, list):
        raise wrong("", f'option "{name}" must be of type array')
    if not all(isinstance(item, str) for item in value):
        raise wrong("", f'option "{name}" must be of an array of strings')
    return value


def _int32(number: int, field: str) -> int:
    return _within(number, field, _INT32_MAX)


def _within(number: int, field: str, limit: int) -> int:
    if not -limit <= number <= limit:
        raise wrong(field, "is out of range")
    return number


def _message(message: Message, field: str) -> pb.Message:
    role = _ROLES.get(message.role.lower())
    if role is None:
        raise wrong(f"{field}.role", 'must be "system", "user", "assistant" or "tool"')
    return pb.Message(
        role=role,
        content=message.content or "",
        thinking=message.thinking or "",
        images=[
            _image(image, f"{field}.images[{place}]") for place, image in enumerate(message.images or ())
        ],
        tool_calls=[
            pb.ToolCall(
                id=call.id, name=call.function.name, arguments_json=bytes(call.function.arguments).decode()
            )
            for call in message.tool_calls or ()
        ],
        tool_name=message.tool_name or "",
        tool_call_id=message.tool_call_id or "",
    )


def _image(text: str, field: str) -> bytes:
    return decoded_image(text, field=field)


def _tool(tool: Tool) -> pb.Tool:
    function = tool.function
    parameters = bytes(function.parameters)
    return pb.Tool(
        name=function.name,
        description=function.description or "",
        parameters_json_schema="" if parameters == b"null" else parameters.decode(),
    )
