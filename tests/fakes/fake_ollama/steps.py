"""Plays a script, at a pace that somebody else sets."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal, Protocol

from deploy.local.runtime.ports import Finished, Piece, Pieces, Text, Thought
from deploy.local.runtime.wire.requests import FunctionCall, GenerateRequest, ToolCall
from tests.fakes.fake_ollama.faults import disturb
from tests.fakes.fake_ollama.script import Call, Duplicate, DuplicateEnd, End, Step, Think


class Pace(Protocol):
    async def reached(self, token_count: int, /) -> None:
        """Return when so many tokens may be out."""

    async def end(self, token_count: int, /) -> Finished:
        """Return the counts and durations when all are."""


async def play(script: Iterable[Step], *, limit: int | None, pace: Pace, closing: asyncio.Event) -> Pieces:
    reason: Literal["stop", "length"] = "stop"
    calls: list[ToolCall] = []
    written_count = 0
    last: Piece = Text("")
    end_count = 1
    for step in script:
        match step:
            case str() if written_count == limit:
                reason = "length"
                break
            case str():
                written_count += 1
                await pace.reached(written_count)
                last = Text(step)
                yield last
            case Think(text):
                last = Thought(text)
                yield last
            case Duplicate():
                yield last
            case DuplicateEnd():
                end_count = 2
            case Call(name, arguments):
                function = FunctionCall(name, dict(arguments), len(calls))
                calls.append(ToolCall(function, f"call_{len(calls)}"))
            case End():
                return
            case _:
                await disturb(step, closing)
    end = replace(await pace.end(written_count), reason=reason, calls=calls)
    for _ in range(end_count):
        yield end


def remembering(piece: Piece, request: GenerateRequest) -> Piece:
    """A context as long as the prompt and the answer."""
    if not isinstance(piece, Finished) or request.raw:
        return piece
    return replace(piece, context=list(range(piece.prompt_eval_count + piece.eval_count)))
