"""Requests: protobuf in, domain out. Refuses what the rules of single fields cannot tell, and decides nothing else.

Rules across fields stand here and not as CEL in the protos: one such rule for each message of a conversation made
validation three times as long.
"""

import base64
import binascii

import msgspec
from google.protobuf.duration_pb2 import Duration
from ollamesh.inference.v1 import completion_pb2 as pb
from ollamesh.inference.v1.inference_service_pb2 import EmbedRequest

from services.common.errors import InvalidRequest, Violation
from services.inference.core.asks import Chat, Embed, Generate, Message, Options, Role, Tool, ToolCall
from services.inference.core.bounds import Bounds, limits
from services.inference.core.callers import CachePolicy, Wishes
from services.inference.core.jobs import Priority
from services.inference.engine import Terms

_ROLES = {
    pb.ROLE_SYSTEM: Role.SYSTEM,
    pb.ROLE_USER: Role.USER,
    pb.ROLE_ASSISTANT: Role.ASSISTANT,
    pb.ROLE_TOOL: Role.TOOL,
}
_THINK: dict[pb.Thinking, bool | str | None] = {
    pb.THINKING_UNSPECIFIED: None,
    pb.THINKING_OFF: False,
    pb.THINKING_ON: True,
    pb.THINKING_LOW: "low",
    pb.THINKING_MEDIUM: "medium",
    pb.THINKING_HIGH: "high",
    pb.THINKING_MAX: "max",
}
CACHE_POLICIES = {
    pb.CACHE_POLICY_UNSPECIFIED: CachePolicy.DETERMINISTIC,
    pb.CACHE_POLICY_DETERMINISTIC: CachePolicy.DETERMINISTIC,
    pb.CACHE_POLICY_ALWAYS: CachePolicy.ALWAYS,
    pb.CACHE_POLICY_NEVER: CachePolicy.NEVER,
}
_ANY_JSON = '"json"'  # How Ollama spells "any JSON" where a schema could stand.


def chat(request: pb.ChatRequest) -> Chat:
    """Raises InvalidRequest."""
    broken = _alone(request)
    for place, message in enumerate(request.messages):
        if not (message.content or message.images or message.tool_calls or message.role == pb.ROLE_TOOL):
            description = "a message needs content, images or tool calls"
            broken.append(Violation(f"messages[{place}]", description, "message.empty"))
        for number, call in enumerate(message.tool_calls):
            field = f"messages[{place}].tool_calls[{number}].arguments_json"
            broken += _not_an_object(call.arguments_json, field)
    for place, tool in enumerate(request.tools):
        if tool.parameters_json_schema:
            field = f"tools[{place}].parameters_json_schema"
            broken += _not_an_object(tool.parameters_json_schema, field)
    broken += _wrong_format(request.format)
    if broken:
        raise InvalidRequest(broken)
    return Chat(
        model=request.model,
        messages=tuple(map(_message, request.messages)),
        tools=tuple(map(_tool, request.tools)),
        format_json=_format(request.format),
        options=_options(request.options),
        think=_THINK[request.thinking],
        logprobs=request.logprobs,
        top_logprob_count=request.top_logprobs,
        keep_alive_s=_hint_s(request),
        conversation_id=request.conversation_id,
    )


def generate(request: pb.GenerateRequest) -> Generate:
    """Raises InvalidRequest."""
    broken = _alone(request) + _wrong_format(request.format)
    if request.raw and (request.system or request.context):
        description = "raw prompts bypass the template, so system and context cannot be used with them"
        broken.append(Violation("raw", description, "generate.raw"))
    if broken:
        raise InvalidRequest(broken)
    return Generate(
        model=request.model,
        prompt=request.prompt,
        suffix=request.suffix,
        system=request.system,
        context=tuple(request.context),
        raw=request.raw,
        images=tuple(request.images),
        format_json=_format(request.format),
        options=_options(request.options),
        think=_THINK[request.thinking],
        logprobs=request.logprobs,
        top_logprob_count=request.top_logprobs,
        keep_alive_s=_hint_s(request),
    )


def embed(request: EmbedRequest) -> Embed:
    return Embed(
        model=request.model,
        inputs=tuple(request.input),
        truncate=request.truncate if request.HasField("truncate") else True,
        dimension_count=request.dimension_count if request.HasField("dimension_count") else None,
        keep_alive_s=_hint_s(request),
    )


def terms(
    tenant: str,
    priority: pb.Priority,
    bounds: Bounds,
    *,
    remaining_s: float,
    queue_timeout: Duration | None = None,
) -> Terms:
    """`remaining_s` is what is left of the call's deadline; without a `queue_timeout`, all of it may be waited.

    Raises InvalidRequest.
    """
    timeout_s = queue_timeout.ToNanoseconds() / 1e9 if queue_timeout else 0.0
    allowed = limits(bounds, remaining_s=remaining_s, queue_timeout_s=timeout_s or None)
    return Terms(
        tenant=tenant,
        priority=Priority(priority or Priority.DEFAULT),
        wait_max_s=allowed.wait_s,
        total_max_s=allowed.total_s,
        run_max_s=bounds.timeout_s_max,
    )


def wishes(request: pb.ChatRequest | pb.GenerateRequest, linger_s: float) -> Wishes:
    """`linger_s` is how long a stream lingers whose request does not say."""
    return Wishes(
        request_id=request.request_id,
        linger_s=request.linger.ToNanoseconds() / 1e9 if request.HasField("linger") else linger_s,
        cache_policy=CACHE_POLICIES[request.cache_policy],
        by_token=request.delta_per_token,
    )


def page_token(token: str) -> str:
    """Return the key that a page goes on from. Raises InvalidRequest."""
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):  # The latter for what is no ASCII or no UTF-8.
        raise InvalidRequest([Violation("page_token", "is not one of ours", "page_token")]) from None


def next_page_token(last_key: str) -> str:
    return base64.urlsafe_b64encode(last_key.encode()).decode()


def _message(message: pb.Message) -> Message:
    return Message(
        role=_ROLES[message.role],
        content=message.content,
        thinking=message.thinking,
        images=tuple(message.images),
        tool_calls=tuple(
            ToolCall(id=call.id, name=call.name, arguments_json=call.arguments_json or "{}")
            for call in message.tool_calls
        ),
        tool_name=message.tool_name,
        tool_call_id=message.tool_call_id,
    )


def _tool(tool: pb.Tool) -> Tool:
    return Tool(name=tool.name, description=tool.description, parameters_json=tool.parameters_json_schema)


def _options(options: pb.Options) -> Options:
    given = {field.name: value for field, value in options.ListFields() if field.name != "stop"}
    return Options(**given, stop=tuple(options.stop))


def _hint_s(request: pb.ChatRequest | pb.GenerateRequest | EmbedRequest) -> float | None:
    """How long the model should stay loaded; None where the request does not say."""
    return request.keep_alive.ToNanoseconds() / 1e9 if request.HasField("keep_alive") else None


def _format(output: pb.OutputFormat) -> str | None:
    return output.json_schema or (_ANY_JSON if output.json else None)


def _alone(request: pb.ChatRequest | pb.GenerateRequest) -> list[Violation]:
    if request.top_logprobs and not request.logprobs:
        return [Violation("top_logprobs", "top_logprobs needs logprobs", "top_logprobs.alone")]
    return []


def _wrong_format(output: pb.OutputFormat) -> list[Violation]:
    return _not_an_object(output.json_schema, "format.json_schema") if output.json_schema else []


def _not_an_object(text: str, field: str) -> list[Violation]:
    try:
        msgspec.json.decode(text or "{}", type=dict[str, object])
    except (msgspec.DecodeError, RecursionError):
        return [Violation(field, "must be a JSON object", "json.object")]
    return []
