"""What a prompt is made of, for a machine that remembers what it has read. A word is a token.

`[read 900]` in a text makes it 900 tokens long, whatever it says.
"""

import re
from collections.abc import Iterator, Sequence

import msgspec

from deploy.local.runtime.wire.requests import ChatRequest, GenerateRequest
from services.inference.simulation.parts import Block
from tests.fakes.fake_ollama.echo import words

# Two texts share tokens up to the last of these that is the same in both.
BLOCK_WORDS = 8
LONG = re.compile(r"\[read (\d+)\]")

Blocks = tuple[Block, ...]


def chat_blocks(request: ChatRequest) -> Blocks:
    blocks: list[Block] = []
    if request.tools:
        tools = msgspec.json.encode(request.tools).decode()
        blocks.append(Block(f"tools {tools}", len(words(tools))))
    for message in request.messages or []:
        if message.role == "assistant":
            blocks.append(Block(answer_key(message.text), len(words(message.text))))
        else:
            blocks += _blocks(message.role, message.text)
    return tuple(blocks)


def generate_blocks(request: GenerateRequest) -> Blocks:
    kept = len(request.context or [])
    context = [Block(f"context {kept}", kept)] if kept else []
    system = _blocks("system", request.system) if request.system else []
    return (*context, *system, *_blocks("raw" if request.raw else "user", request.prompt))


def embed_blocks(texts: Sequence[str]) -> Blocks:
    return tuple(block for text in texts for block in _blocks("embed", text))


def answer_key(text: str) -> str:
    """Of the block that an answer is, in the slot that wrote it and in the prompts that go on from it."""
    return f"assistant {text}"


def _blocks(role: str, text: str) -> Iterator[Block]:
    if said := LONG.search(text):
        yield Block(f"{role} {text}", int(said[1]))
        return
    tokens = words(text)
    for start in range(0, len(tokens), BLOCK_WORDS):
        piece = tokens[start : start + BLOCK_WORDS]
        yield Block(f"{role} {''.join(piece)}", len(piece))
