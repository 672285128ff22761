"""Prompts that fit: conversations lose their oldest messages, as Ollama's do."""

from collections.abc import Mapping, Sequence

from deploy.local.runtime.errors import InputTooLongError
from deploy.local.runtime.runner import Runner

Messages = Sequence[Mapping[str, str]]


async def rendered(runner: Runner, messages: Messages, *, context_length: int, truncate: bool) -> str:
    """The prompt for `messages`, or for as many of the last as fit into `context_length` tokens.

    A last message that does not fit alone stays whole: llama.cpp's refusal says how long it is.
    """
    while True:
        prompt = await runner.apply_template(messages)
        # A token is at least one character, so short prompts need no counting.
        if (
            not truncate
            or len(prompt) < context_length
            or len(await runner.tokenize(prompt)) < context_length
        ):
            return prompt
        shorter = without_oldest(messages)
        if shorter is None:
            return prompt
        messages = shorter


def without_oldest(messages: Messages) -> Messages | None:
    """Without the first message that is not the system's; None if that is the last one."""
    for index, message in enumerate(messages[:-1]):
        if message["role"] != "system":
            return [*messages[:index], *messages[index + 1 :]]
    return None


async def fitting(runner: Runner, text: str, context_length: int, *, truncate: bool) -> str | list[int]:
    """A text to embed, or its first tokens if it is too long. Raises InputTooLongError."""
    if len(text) < context_length - 2:  # With the two tokens around it, and each at least a character.
        return text
    tokens = await runner.tokenize(text, add_special=True)
    if len(tokens) <= context_length:
        return text
    if not truncate:
        raise InputTooLongError
    return [*tokens[: context_length - 1], tokens[-1]]
