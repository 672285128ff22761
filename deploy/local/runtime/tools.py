"""Tool calls for a model whose template knows none.

SmolLM2 was never taught to call tools: asked in words alone it does not, held to the JSON of a call it
always does, and left to choose between a call and an answer it calls for ever. Ollama's API has no
`tool_choice`, so the turn decides, and an agent's loop comes to its end:

- Until a tool has answered the user's last message, the model must call one of the tools.
- Once one has, the model must answer in words.

A model that can judge for itself whether it needs a tool runs on a real Ollama, where nothing is forced.

Pure: a request in, a prompt and a constraint out; text in, a call out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from deploy.local.runtime.schemas import constraint
from deploy.local.runtime.wire.requests import ChatRequest, FunctionCall, Json, Message, Tool

INSTRUCTION = """You can call these tools:
{tools}
A call is JSON: {{"name": <the tool's name>, "arguments": <an object>}}."""
REMINDER = "\nNow answer in one sentence: {question}"
IN_WORDS = "root ::= [^{] .*"  # A grammar for anything that is not JSON.
DEFINITIONS = ("$defs", "definitions")  # Where a JSON schema keeps what it refers to.

# Role and content: all that a plain template knows.
Shown: TypeAlias = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What the model is shown and held to."""

    messages: Shown
    constraint: Json  # llama.cpp's parameters.
    must_call: bool = False  # The output is a tool call.
    must_be_json: bool = False


def plan(request: ChatRequest) -> Turn:
    """Raises InvalidFormatError, RunnerRefusedError."""
    messages = request.messages or []
    shown: Shown = [_shown(message) for message in messages]
    if request.tools and not _answered(messages):
        return Turn(
            messages=_instructed(shown, request.tools),
            constraint=constraint(_calls_schema(request.tools), compact=True),
            must_call=True,
            must_be_json=True,
        )
    if request.tools:
        shown = _reminded(shown, messages)
    if request.schema is not None:
        return Turn(messages=shown, constraint=constraint(request.schema), must_be_json=True)
    return Turn(messages=shown, constraint={"grammar": IN_WORDS} if request.tools else {})


def read_call(text: str) -> FunctionCall | None:
    """The call that `text` is; None if it was cut short."""
    try:
        call = msgspec.json.decode(text, type=FunctionCall)
    except msgspec.DecodeError:
        return None
    return FunctionCall(call.name, call.arguments, 0)


def _answered(messages: Sequence[Message]) -> bool:
    """Whether a tool has answered since the user last spoke."""
    voices = [message.role.lower() for message in messages if message.role.lower() in {"tool", "user"}]
    return voices[-1:] == ["tool"]


def _shown(message: Message) -> Mapping[str, str]:
    """A message as a template without tools can say it."""
    role = message.role.lower()
    if role == "tool":
        name = f" {message.tool_name}" if message.tool_name else ""
        return {"role": "user", "content": f"The tool{name} returned: {message.text}"}
    if message.tool_calls:
        calls = "\n".join(
            msgspec.json.encode({"name": call.function.name, "arguments": call.function.arguments}).decode()
            for call in message.tool_calls
        )
        return {"role": role, "content": f"{message.text}\n{calls}".strip()}
    return {"role": role, "content": message.text}


def _instructed(shown: Shown, tools: Sequence[Tool]) -> Shown:
    """The tools join the caller's system message: small models heed only one."""
    described = "\n".join(msgspec.json.encode(tool.function).decode() for tool in tools)
    instruction = INSTRUCTION.format(tools=described)
    if shown and shown[0]["role"] == "system":
        return [{"role": "system", "content": f"{shown[0]['content']}\n\n{instruction}"}, *shown[1:]]
    return [{"role": "system", "content": instruction}, *shown]


def _reminded(shown: Shown, messages: Sequence[Message]) -> Shown:
    """The question joins the tool's answer: by then a small model has forgotten it."""
    question = next((m.text for m in reversed(messages) if m.role.lower() == "user"), "")
    last = shown[-1]
    return [*shown[:-1], {**last, "content": last["content"] + REMINDER.format(question=question)}]


def _calls_schema(tools: Sequence[Tool]) -> Json:
    """A call of any one tool."""
    definitions: Json = {}
    calls: list[Json] = []
    for index, tool in enumerate(tools):
        parameters = _embedded(tool.function.parameters or {"type": "object"}, f"#/$defs/{index}/")
        assert isinstance(parameters, dict)
        definitions[str(index)] = {key: parameters.pop(key) for key in DEFINITIONS if key in parameters}
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": tool.function.name}, "arguments": parameters},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    return {"anyOf": calls, "$defs": definitions}


def _embedded(schema: object, root: str) -> object:
    """A copy to stand inside another schema: references start at `root` instead of `#/`.

    Objects that do not say whether they are open are closed, because the model would fill open ones with
    inventions until its tokens run out.
    """
    match schema:
        case {"$ref": str(reference)}:
            return {"$ref": reference.replace("#/", root, 1)}
        case dict():
            copy = {key: _embedded(value, root) for key, value in schema.items()}
            closed = schema.get("type") == "object" and "properties" in schema
            return {"additionalProperties": False, **copy} if closed else copy
        case list():
            return [_embedded(item, root) for item in schema]
        case _:
            return schema
