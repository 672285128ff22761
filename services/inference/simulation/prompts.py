"""What a trace's prompts are made of: which tokens they have in common, and with whom."""

from dataclasses import dataclass

from services.inference.core.prefixes import Prefix
from services.inference.simulation.parts import Block
from services.inference.simulation.trace import Arrival

_PREFIXES_MAX = 8  # As many as the gateway keeps of a prompt (core/prefixes.py).


@dataclass(frozen=True, slots=True)
class Prompt:
    blocks: tuple[Block, ...]
    prefixes: tuple[Prefix, ...]  # The longest first.
    answer_key: str = ""  # Of its answer, in the next prompt of the conversation.


class Prompts:
    """Makes prompts in the order of arrival. A conversation's prompt is all that was said in it, and what is new."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[Block, ...]] = {}

    def of(self, number: int, arrival: Arrival) -> Prompt:
        if arrival.prefixes:
            return Prompt(_between(number, arrival), arrival.prefixes)
        if not arrival.conversation:
            blocks: tuple[Block, ...] = (Block(f"prompt {number}", arrival.prompt_tokens),)
            return Prompt(blocks, _beginnings(blocks))
        blocks = self._next_of(arrival, number)
        answer_key = f"answer {number}"
        self._said[arrival.conversation] = (*blocks, Block(answer_key, arrival.output_tokens))
        return Prompt(blocks, _beginnings(blocks), answer_key)

    def _next_of(self, arrival: Arrival, number: int) -> tuple[Block, ...]:
        said = self._said.get(arrival.conversation, ())
        new = arrival.prompt_tokens - sum(block.token_count for block in said)
        if new <= 0:  # It is shorter than what was said: something was left out, and nothing can be reused.
            said, new = (), arrival.prompt_tokens
        return (*said, Block(f"prompt {number}", new))


def _beginnings(blocks: tuple[Block, ...]) -> tuple[Prefix, ...]:
    found, token_count = [], 0
    for block in blocks:
        token_count += block.token_count
        found.append(Prefix(key=block.key, token_count=token_count))
    return tuple(found[: -_PREFIXES_MAX - 1 : -1])


def _between(number: int, arrival: Arrival) -> tuple[Block, ...]:
    """Return the blocks that given prefixes make, and the rest of the prompt."""
    blocks, before = [], 0
    for prefix in reversed(arrival.prefixes):
        if prefix.token_count > before:
            blocks.append(Block(prefix.key, prefix.token_count - before))
            before = prefix.token_count
    if arrival.prompt_tokens > before:
        blocks.append(Block(f"rest {number}", arrival.prompt_tokens - before))
    return tuple(blocks)
