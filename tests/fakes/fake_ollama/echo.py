"""What the fake says when nobody wrote it a script. Pure, so that any process can predict it.

- No script is spent on the gateway's probe: one token, raw.
- `[write 20]` in the user's message, or in the prompt, is answered with exactly 20 tokens.
- chat and generate repeat the user's last message, word by word; `raw` goes on repeating the prompt until
  `num_predict` ends it, as a base model would.
- With tools it calls the first, as the embedded runtime must; once a tool has answered, it repeats that.
- With a schema it answers the simplest instance. Strings in instances and calls are the user's message, so
  a test writes the code it wants run into the prompt; numbers are the first one in it, and an object that may have
  any keys has those that the message names in quotes.
- An embedding is a bag of words: texts that share words are near each other.
"""

import hashlib
import itertools
import re
from collections.abc import Iterator

import msgspec

from deploy.local.runtime.tools import plan
from deploy.local.runtime.wire.requests import ChatRequest, CompletionRequest, GenerateRequest, Json, Message
from deploy.local.runtime.wire.vectors import unit
from tests.fakes.fake_ollama.script import Call, Step

EMBEDDING_LENGTH = 384
RAW_WORDS = 64
NUMBER, QUOTED = re.compile(r"\d+"), re.compile(r"'(\w+)'")
LENGTH = re.compile(r"\[write (\d+)\]")


def is_probe(request: CompletionRequest) -> bool:
    """Whether nobody wants the answer: the gateway asks whether the model is alive. No script is for that."""
    return isinstance(request, GenerateRequest) and request.raw and request.parsed_options.predict_max == 1


def chat_script(request: ChatRequest) -> Iterator[Step]:
    messages = request.messages or []
    said = _last(messages, "user")
    if length := LENGTH.search(said):
        yield from words(" ".join(["word"] * int(length[1])))
    elif request.tools and plan(request).must_call:
        function = request.tools[0].function
        arguments = instance(function.parameters or {}, said)
        assert isinstance(arguments, dict)
        yield Call(function.name, arguments)
    elif request.schema is not None:
        yield from _json(instance(request.schema, said))
    elif messages[-1].role == "tool":
        yield from words(f"{messages[-1].tool_name or 'tool'} returned: {messages[-1].text}")
    else:
        yield from words(said)


def generate_script(request: GenerateRequest) -> Iterator[Step]:
    if length := LENGTH.search(request.prompt):
        yield from words(" ".join(["word"] * int(length[1])))
    elif request.raw:
        endless = itertools.cycle(words(request.prompt + " "))
        yield from itertools.islice(endless, request.parsed_options.predict_max or RAW_WORDS)
    elif request.schema is not None:
        yield from _json(instance(request.schema, request.prompt))
    else:
        yield from words(request.prompt)


def words(text: str) -> list[str]:
    """Tokens: a word each, with the space before it. Joined they are `text`."""
    first, *rest = text.split(" ")
    return [first, *(f" {word}" for word in rest)]


def embedding(text: str) -> list[float]:
    # A word's direction is drawn from its hash; in this many dimensions two of them are nearly orthogonal.
    directions = [
        hashlib.shake_256(word.encode()).digest(EMBEDDING_LENGTH) for word in text.lower().split(" ")
    ]
    return unit([sum(column) - 127.5 * len(directions) for column in zip(*directions, strict=True)])


def instance(schema: Json, text: str) -> object:
    """The simplest value that `schema` allows, with `text` where a string may be anything."""
    return _instance(schema, text, schema)


def _instance(schema: object, text: str, root: Json) -> object:
    value: object
    match schema:
        case {"$ref": str(reference)}:
            value = _instance(_resolve(reference, root), text, root)
        case {"const": given} | {"enum": [given, *_]} | {"default": given}:
            value = given
        case {"anyOf": [first, *_]} | {"oneOf": [first, *_]} | {"allOf": [first, *_]}:
            value = _instance(first, text, root)
        case {"type": "string", "maxLength": int(limit)}:
            value = text[:limit]
        case {"type": "integer" | "number", "minimum": low}:
            value = low
        case {"type": "array", "items": items}:
            value = [_instance(items, text, root)]
        case {"properties": dict(properties)}:
            value = {name: _instance(part, text, root) for name, part in properties.items()}
        case {"type": str(kind)}:
            value = {
                "string": text,
                "boolean": True,
                "array": [],
                "null": None,
                "object": dict.fromkeys(QUOTED.findall(text) or ["text"], text),
            }.get(kind, int(found[0]) if (found := NUMBER.search(text)) else 1)
        case _:
            value = {"text": text}
    return value


def _resolve(reference: str, root: Json) -> object:
    found: object = root
    for step in reference.removeprefix("#/").split("/"):
        assert isinstance(found, dict)
        found = found[step]
    return found


def _last(messages: list[Message], role: str) -> str:
    return next((message.text for message in reversed(messages) if message.role == role), "")


def _json(value: object) -> list[str]:
    return words(msgspec.json.encode(value).decode())
