"""A prompt in parts: what the scheduler has to know of it, which is how long it is and what it shares.

Token counts are estimates, because counting would take the model's own vocabulary; the instance's final
figures correct what is learned from them. Prefixes are hashes (core/prefixes.py), never text.
"""

import math
from array import array
from collections.abc import Iterator
from hashlib import blake2b

from services.inference.core.asks import Ask, Chat, Embed, Generate, Message
from services.inference.core.prefixes import Prefix, chain

CODE_POINTS_PER_TOKEN = 4  # Of English; other scripts have more tokens, so their prompts look shorter.
MESSAGE_TOKENS = 4  # A template's marks around a message.
IMAGE_TOKENS = 768  # What the vision models in use make of one: 256 to 1,500.
# A long text is several parts, so that two that differ only at their ends share what comes before.
PART_TOKENS = 1024

Part = tuple[str, int]  # Its text, with all that it depends on, and its tokens.


def token_count(text: str) -> int:
    """Estimate how many tokens a text has."""
    return math.ceil(len(text) / CODE_POINTS_PER_TOKEN)


def parts(ask: Ask) -> list[Part]:
    """Return the parts of a prompt in the order in which a model reads them."""
    match ask:
        case Chat():
            return list(_chat(ask))
        case Generate():
            return list(_generate(ask))
        case Embed():  # Texts that share nothing.
            return [(text, token_count(text)) for text in ask.inputs]


def prefixes(ask: Ask, tenant: str, model: str, found: list[Part]) -> tuple[Prefix, ...]:
    """Return the beginnings of a prompt by which an instance that has read them is found, longest first."""
    if isinstance(ask, Embed):
        return ()
    seed = f"{tenant}\0{model}"
    kept = chain(seed, found)
    if not (isinstance(ask, Chat) and ask.conversation_id):
        return kept
    # A caller that names its conversation may have changed its text, too: shortened it, for one. Where the
    # conversation was last, all but what is new is the most that can still be there.
    (named,) = chain(seed, [(f"conversation\0{ask.conversation_id}", 0)])
    new_token_count = sum(count for _, count in _message(ask.messages[-1]))
    old_token_count = sum(count for _, count in found) - new_token_count
    every = [*kept, Prefix(key=named.key, token_count=old_token_count)]
    return tuple(sorted(every, key=lambda prefix: -prefix.token_count))  # Stable: texts before names.


def _chat(ask: Chat) -> Iterator[Part]:
    for tool in ask.tools:  # Templates put them first.
        yield from _split(f"tool\0{tool.name}\0{tool.description}\0{tool.parameters_json}")
    for message in ask.messages:
        yield from _message(message)


def _generate(ask: Generate) -> Iterator[Part]:
    for start in range(0, len(ask.context), PART_TOKENS):
        tokens = array("q", ask.context[start : start + PART_TOKENS])
        yield f"context\0{blake2b(tokens.tobytes()).hexdigest()}", len(tokens)
    yield from _split(f"{'raw' if ask.raw else 'plain'}\0{ask.system}\0")
    yield from _images(ask.images)
    yield from _split(ask.prompt)
    yield from _split(ask.suffix)


def _message(message: Message) -> Iterator[Part]:
    """One part, unless it is long or more than text: prefixes are kept by their number."""
    said = [*_images(message.images), *_split(message.thinking), *_split(message.content)]
    for call in message.tool_calls:
        said += _split(f"call\0{call.name}\0{call.arguments_json}")
    (text, count), *rest = said or [("", 0)]
    yield f"{message.role.value}\0{message.tool_name}\0{message.tool_call_id}\0{text}", MESSAGE_TOKENS + count
    yield from rest


def _images(images: tuple[bytes, ...]) -> Iterator[Part]:
    for image in images:
        yield f"image\0{blake2b(image).hexdigest()}", IMAGE_TOKENS


def _split(text: str) -> Iterator[Part]:
    step = PART_TOKENS * CODE_POINTS_PER_TOKEN
    for start in range(0, len(text), step):
        part = text[start : start + step]
        yield part, token_count(part)
