"""Requests of OpenAI's API: JSON in, our requests out.

What would mean something else if it were ignored is refused; hints and labels are ignored (docs/rest.md has the table).
"""

import re
from collections.abc import Mapping, Sequence

from ollamesh.inference.v1 import completion_pb2 as pb
from ollamesh.inference.v1.inference_service_pb2 import EmbedRequest

from services.inference.rest.calls import says_nothing
from services.inference.rest.openai_schemas import (
    ChatCall,
    CompletionCall,
    EmbeddingCall,
    Message,
    Part,
    Sampling,
    Tool,
)
from services.inference.rest.wire import Names, decoded_image, wrong

UNSUPPORTED_VALUE, UNSUPPORTED_PARAMETER = "unsupported_value", "unsupported_parameter"

# OpenAI's names for fields of our requests.
NAMES: Names = [
    (re.compile(r"^options\.output_token_count_max$"), "max_tokens"),
    (re.compile(r"^options\."), ""),
    (re.compile(r"^format\.json_schema$"), "response_format.json_schema.schema"),
    (re.compile(r"^dimension_count$"), "dimensions"),
    (re.compile(r"(tool_calls\[\d+\])\.arguments_json$"), r"\1.function.arguments"),
    (re.compile(r"(tool_calls\[\d+\])\.name$"), r"\1.function.name"),
    (re.compile(r"(tools\[\d+\])\.parameters_json_schema$"), r"\1.function.parameters"),
    (re.compile(r"(tools\[\d+\])\.(name|description)$"), r"\1.function.\2"),
]
_BY_COMPLETION_TOKENS: Names = [
    (re.compile(r"^options\.output_token_count_max$"), "max_completion_tokens"),
]
_ROLES: Mapping[str, pb.Role] = {
    "developer": pb.ROLE_SYSTEM,
    "system": pb.ROLE_SYSTEM,
    "user": pb.ROLE_USER,
    "assistant": pb.ROLE_ASSISTANT,
    "tool": pb.ROLE_TOOL,
}
_EFFORTS: Mapping[str, pb.Thinking] = {
    "none": pb.THINKING_OFF,
    "minimal": pb.THINKING_LOW,
    "low": pb.THINKING_LOW,
    "medium": pb.THINKING_MEDIUM,
    "high": pb.THINKING_HIGH,
    "xhigh": pb.THINKING_MAX,
    "max": pb.THINKING_MAX,
}
_DATA_URL = re.compile(r"data:(?:image/(?:jpeg|jpg|png|webp|gif))?;base64,")
_INT32_MAX, _INT64_MAX = 2**31 - 1, 2**63 - 1


def chat(call: ChatCall) -> tuple[pb.ChatRequest, list[int]]:
    """Return the request, and the place that each of its messages has in the call. Raises InvalidRequest."""
    _refuse_unserved(call)
    _refuse_chat_unserved(call)
    request = pb.ChatRequest(model=_model(call.model), tools=_tools(call))
    places = []
    for place, message in enumerate(call.messages):
        made = _message(call.messages, place, message)
        if not says_nothing(made):
            request.messages.append(made)
            places.append(place)
    limit = call.max_tokens if call.max_completion_tokens is None else call.max_completion_tokens
    _put_options(request.options, call, limit)
    _put_format(request.format, call)
    request.thinking = _thinking(call)
    request.logprobs = call.logprobs or False
    if call.top_logprobs is not None:
        request.top_logprobs = _within(call.top_logprobs, "top_logprobs", _INT32_MAX)
    return request, places


def names(call: ChatCall) -> Names:
    """Return what fields are called by this caller, where there is a choice."""
    return () if call.max_completion_tokens is None else _BY_COMPLETION_TOKENS


def completion(call: CompletionCall) -> pb.GenerateRequest:
    """Raises InvalidRequest."""
    _refuse_unserved(call)
    if call.echo:
        raise wrong("echo", "is not supported here", UNSUPPORTED_VALUE)
    if call.best_of not in {None, 1}:
        raise wrong("best_of", "only 1 is supported here", UNSUPPORTED_VALUE)
    request = pb.GenerateRequest(
        model=_model(call.model), prompt=_prompt(call.prompt), suffix=call.suffix or ""
    )
    _put_options(request.options, call, call.max_tokens)
    if call.logprobs is not None:
        request.logprobs = True
        request.top_logprobs = _within(call.logprobs, "logprobs", _INT32_MAX)
    return request


def embedding(call: EmbeddingCall) -> EmbedRequest:
    """Raises InvalidRequest."""
    if call.encoding_format not in {None, "float", "base64"}:
        raise wrong("encoding_format", "must be 'float' or 'base64'", "invalid_value")
    inputs = [call.input] if isinstance(call.input, str) else call.input
    if not inputs:
        raise wrong("input", "must not be empty", "invalid_value")
    request = EmbedRequest(model=_model(call.model), truncate=False)
    for one in inputs:
        if not isinstance(one, str):
            raise wrong(
                "input", "must be a string or an array of strings; token arrays are not supported here"
            )
        request.input.append(one)
    if call.dimensions is not None:
        request.dimension_count = _within(call.dimensions, "dimensions", _INT32_MAX)
    return request


def _model(name: str) -> str:
    if not name:
        raise wrong("model", "you must provide a model parameter")
    return name


def _refuse_unserved(call: Sampling) -> None:
    if call.n not in {None, 1}:
        raise wrong("n", "only 1 is supported here", UNSUPPORTED_VALUE)
    if call.logit_bias:
        raise wrong("logit_bias", "is not supported here", UNSUPPORTED_PARAMETER)
    if call.stream_options is not None and not call.stream:
        raise wrong("stream_options", "is only allowed when 'stream' is enabled")


def _refuse_chat_unserved(call: ChatCall) -> None:
    for name in ("functions", "function_call", "audio", "web_search_options"):
        if bytes(getattr(call, name)) not in {b"", b"null"}:
            instead = ": use tools" if name.startswith("function") else ""
            raise wrong(name, f"is not supported here{instead}", UNSUPPORTED_PARAMETER)
    if set(call.modalities or ()) - {"text"}:
        raise wrong("modalities", "only 'text' is supported here", UNSUPPORTED_VALUE)


def _put_options(options: pb.Options, call: Sampling, limit: int | None) -> None:
    """Both defaults are OpenAI's: the model's own would be others."""
    options.temperature = 1.0 if call.temperature is None else call.temperature
    options.top_p = 1.0 if call.top_p is None else call.top_p
    for name in ("presence_penalty", "frequency_penalty"):
        if (value := getattr(call, name)) is not None:
            setattr(options, name, value)
    if call.seed is not None:
        options.seed = _within(call.seed, "seed", _INT64_MAX)
    if limit is not None:
        options.output_token_count_max = _within(limit, "max_tokens", _INT32_MAX)
    if call.stop is not None:
        options.stop.extend([call.stop] if isinstance(call.stop, str) else call.stop)


def _put_format(output: pb.OutputFormat, call: ChatCall) -> None:
    wanted = call.response_format
    match wanted.type if wanted is not None else "text":
        case "text":
            return
        case "json_object":
            output.json = True
        case "json_schema":
            schema = bytes(wanted.json_schema.schema_) if wanted and wanted.json_schema else b""
            if schema in {b"", b"null"}:
                raise wrong("response_format.json_schema.schema", "is required", "missing_required_parameter")
            output.json_schema = schema.decode()
        case _:
            raise wrong(
                "response_format.type", "must be 'text', 'json_object' or 'json_schema'", "invalid_value"
            )


def _thinking(call: ChatCall) -> pb.Thinking:
    effort = (call.reasoning.effort if call.reasoning else None) or call.reasoning_effort
    if effort is None:
        return pb.THINKING_UNSPECIFIED
    if effort not in _EFFORTS:
        raise wrong("reasoning_effort", f"must be one of {', '.join(_EFFORTS)}", "invalid_value")
    return _EFFORTS[effort]


def _tools(call: ChatCall) -> list[pb.Tool]:
    """Those that the model may call. Ollama cannot make a model call one: the most is to offer no other."""
    made = [_tool(tool, f"tools[{place}]") for place, tool in enumerate(call.tools or ())]
    match call.tool_choice:
        case None | "auto" | "required":
            return made
        case "none":
            return []
        case {"type": "function", "function": {"name": str(name)}}:
            chosen = [tool for tool in made if tool.name == name]
            if not chosen:
                raise wrong("tool_choice", f"tool {name[:64]!r} is not in tools", "invalid_value")
            return chosen
        case _:
            raise wrong("tool_choice", "is not supported here", UNSUPPORTED_VALUE)


def _tool(tool: Tool, field: str) -> pb.Tool:
    if tool.type != "function":
        raise wrong(f"{field}.type", "only 'function' is supported here", UNSUPPORTED_VALUE)
    if tool.function is None:
        raise wrong(f"{field}.function", "is required", "missing_required_parameter")
    parameters = bytes(tool.function.parameters)
    return pb.Tool(
        name=tool.function.name,
        description=tool.function.description or "",
        parameters_json_schema="" if parameters == b"null" else parameters.decode(),
    )


def _message(messages: Sequence[Message], place: int, message: Message) -> pb.Message:
    field = f"messages[{place}]"
    role = _ROLES.get(message.role)
    if role is None:
        raise wrong(f"{field}.role", f"must be one of {', '.join(_ROLES)}", "invalid_value")
    made = pb.Message(role=role, thinking=message.reasoning or "", tool_call_id=message.tool_call_id or "")
    for call in message.tool_calls or ():
        made.tool_calls.add(id=call.id, name=call.function.name, arguments_json=call.function.arguments)
    if role == pb.ROLE_TOOL:
        if not made.tool_call_id:
            raise wrong(f"{field}.tool_call_id", "is required", "missing_required_parameter")
        made.tool_name = message.name or _called(messages[:place], made.tool_call_id)
    if isinstance(message.content, str):
        made.content = message.content
    elif message.content is not None:
        texts = [_put(made, part, f"{field}.content[{at}]") for at, part in enumerate(message.content)]
        made.content = "\n".join(text for text in texts if text)
    return made


def _put(message: pb.Message, part: Part, field: str) -> str:
    """Return a part's text; an image goes into the message."""
    match part:
        case Part(type="text", text=str(text)) | Part(type="refusal", refusal=str(text)):
            return text
        case Part(type="image_url", image_url=image) if image is not None:
            url = image if isinstance(image, str) else image.url
            message.images.append(_image(url, f"{field}.image_url"))
            return ""
        case Part(type="text" | "refusal" | "image_url"):
            raise wrong(field, f"a part of type '{part.type}' needs it", "missing_required_parameter")
        case _:
            raise wrong(f"{field}.type", "only 'text' and 'image_url' are supported here", UNSUPPORTED_VALUE)


def _image(url: str, field: str) -> bytes:
    prefix = _DATA_URL.match(url)
    if prefix is None:
        raise wrong(
            field,
            "must be a data URL (data:image/png;base64,...): this server fetches nothing",
            "invalid_value",
        )
    return decoded_image(url[prefix.end() :], field=field)


def _called(messages: Sequence[Message], call_id: str) -> str:
    """Which tool was called by that name, the last time if there are several."""
    for message in reversed(messages):
        for call in message.tool_calls or ():
            if call.id == call_id:
                return call.function.name
    return ""


def _prompt(prompt: object) -> str:
    match prompt:
        case str(text) | [str(text)]:
            return text
        case None:
            raise wrong("prompt", "is required", "missing_required_parameter")
        case _:
            raise wrong("prompt", "must be one string: several, and tokens, are not supported here")


def _within(number: int, field: str, limit: int) -> int:
    if not -limit <= number <= limit:
        raise wrong(field, "is out of range", "integer_out_of_range")
    return number
