"""Requests as Ollama's API wants them: domain in, JSON out. Always streamed, for only a stream can be cancelled."""

import math
from collections.abc import Mapping

import msgspec

from services.inference.core.admission import Order
from services.inference.core.asks import Chat, Embed, Generate, Message, Tool, ToolCall

_PROBE = "Hi"
_ANY_OBJECT = '{"type":"object"}'

encode = msgspec.json.Encoder().encode


def completion_body(order: Order, model: str) -> tuple[str, bytes]:
    """Return the path and the body for a Chat or Generate."""
    match order.ask:
        case Chat() as ask:
            path, own = "/api/chat", _chat(ask)
        case Generate() as ask:
            path, own = "/api/generate", _generate(ask)
        case Embed():
            raise AssertionError(order)
    common: dict[str, object] = {
        "model": model,
        "stream": True,
        "options": order.options,
        "keep_alive": _keep_alive(order.keep_alive_s),
    }
    if ask.format_json is not None:
        common["format"] = _raw(ask.format_json)
    if ask.think is not None:
        common["think"] = ask.think
    if ask.logprobs:
        common["logprobs"] = True
        common["top_logprobs"] = ask.top_logprob_count
    return path, encode(common | own)


def embed_body(order: Order, model: str) -> bytes:
    """Return the body for the /api/embed of an Embed."""
    ask = order.ask
    assert isinstance(ask, Embed)
    body: dict[str, object] = {
        "model": model,
        "input": ask.inputs,
        "truncate": ask.truncate,
        "options": order.options,
        "keep_alive": _keep_alive(order.keep_alive_s),
    }
    if ask.dimension_count is not None:
        body["dimensions"] = ask.dimension_count
    return encode(body)


def load_body(
    model: str, *, embeds: bool, options: Mapping[str, object], keep_alive_s: float
) -> tuple[str, bytes]:
    """Return the path and the body that load a model and generate nothing."""
    common = {"model": model, "options": options, "keep_alive": _keep_alive(keep_alive_s)}
    if embeds:
        return "/api/embed", encode({**common, "input": []})
    return "/api/generate", encode({**common, "stream": False})


def unload_body(model: str) -> tuple[str, bytes]:
    """Return the path and the body that unload a model.

    Of whatever kind: it is /api/generate that unloads before it asks what a model can do, whereas
    /api/embed would load it first.
    """
    return "/api/generate", encode({"model": model, "keep_alive": 0, "stream": False})


def probe_body(model: str, *, embeds: bool, options: Mapping[str, object]) -> tuple[str, bytes]:
    """Return the path and the body of the least work that proves a model alive."""
    common: dict[str, object] = {"model": model}
    if embeds:
        return "/api/embed", encode({**common, "options": options, "input": [_PROBE]})
    options = {**options, "num_predict": 1}
    return "/api/generate", encode(
        {**common, "options": options, "prompt": _PROBE, "raw": True, "stream": True}
    )


def _keep_alive(seconds: float) -> int:
    """Ollama cuts a number to whole seconds, and 0 would unload."""
    return math.ceil(seconds)


def _chat(ask: Chat) -> dict[str, object]:
    body: dict[str, object] = {"messages": [_message(message) for message in ask.messages]}
    if ask.tools:
        body["tools"] = [_tool(tool) for tool in ask.tools]
    return body


def _generate(ask: Generate) -> dict[str, object]:
    optional = {
        "suffix": ask.suffix,
        "system": ask.system,
        "context": ask.context,
        "raw": ask.raw,
        "images": ask.images,
    }
    return {"prompt": ask.prompt, **{name: value for name, value in optional.items() if value}}


def _message(message: Message) -> dict[str, object]:
    optional = {
        "thinking": message.thinking,
        "images": message.images,  # Bytes become base64.
        "tool_calls": [_tool_call(call) for call in message.tool_calls],
        "tool_name": message.tool_name,
        "tool_call_id": message.tool_call_id,
    }
    return {
        "role": message.role.value,
        "content": message.content,
        **{name: value for name, value in optional.items() if value},
    }


def _tool(tool: Tool) -> dict[str, object]:
    parameters = _raw(tool.parameters_json or _ANY_OBJECT)
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _tool_call(call: ToolCall) -> dict[str, object]:
    return {"id": call.id, "function": {"name": call.name, "arguments": _raw(call.arguments_json)}}


def _raw(text: str) -> msgspec.Raw:
    """JSON text, as it is. It was parsed once, where it came in."""
    return msgspec.Raw(text.encode())
