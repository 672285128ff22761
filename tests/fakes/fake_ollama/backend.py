"""Plays scripts where the embedded runtime would ask llama.cpp. Implements ports.Backend."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Literal, Never

from aiohttp import web

from deploy.local.runtime.errors import WireError
from deploy.local.runtime.ports import (
    Embedded,
    Finished,
    LoadedCard,
    ModelCard,
    Piece,
    Pieces,
    Text,
    Thought,
)
from deploy.local.runtime.residency import Residency, Slot
from deploy.local.runtime.wire.requests import (
    ChatRequest,
    CompletionRequest,
    FunctionCall,
    GenerateRequest,
    ModelRequest,
    ToolCall,
)
from tests.fakes.fake_ollama import echo
from tests.fakes.fake_ollama.script import (
    Call,
    Cut,
    End,
    Fail,
    Hang,
    Malformed,
    Refuse,
    Step,
    Think,
)

# Of the request being handled; set by the server. Hanging up and breaking lines need its socket.
current_request: ContextVar[web.Request] = ContextVar("current_request")
RESPONSE = web.RequestKey("response", web.StreamResponse)


class RefusedError(WireError):
    """Any status and text that a script wants."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status  # type: ignore[misc]  # A constant everywhere else.


class CutError(Exception):
    """The connection is gone; there is nobody to answer."""


class FakeResident:
    """A model in no memory."""

    exited = False

    def kill(self) -> None:
        self.exited = True


class ScriptedBackend:
    def __init__(
        self,
        models: Sequence[ModelCard],
        *,
        parallel: int,
        waiting_max: int,
        keep_alive_s: float,
        token_s: float,
    ) -> None:
        self.scripts: deque[Sequence[Step]] = deque()
        self.may_load = asyncio.Event()  # Cleared, it holds every load back.
        self.may_load.set()
        self.load_count = 0
        self._models = models
        self._token_s = token_s
        self._residencies = {
            card.name: Residency(
                self._start, parallel=parallel, waiting_max=waiting_max, keep_alive_s=keep_alive_s
            )
            for card in models
        }

    def installed(self) -> Sequence[ModelCard]:
        return self._models

    def loaded(self) -> Sequence[LoadedCard]:
        return [
            LoadedCard(card, *loaded)
            for card in self._models
            if (loaded := self._residencies[card.name].loaded) is not None
        ]

    async def load(self, card: ModelCard, request: ModelRequest) -> None:
        async with self._residencies[card.name].using(
            context_length=_context_length(card, request), keep_alive_s=request.keep_alive_s
        ):
            pass

    async def unload(self, card: ModelCard) -> None:
        self._residencies[card.name].unload()

    async def chat(self, card: ModelCard, request: ChatRequest) -> Pieces:
        prompt = " ".join(message.text for message in request.messages or [])
        async with self._slot(card, request) as slot:
            script = self._next_script() or echo.chat_script(request)
            async with aclosing(self._play(script, request, slot, len(echo.words(prompt)))) as pieces:
                async for piece in pieces:
                    yield piece

    async def generate(self, card: ModelCard, request: GenerateRequest) -> Pieces:
        prompt_count = len(request.context or []) + len(echo.words(request.prompt))
        async with self._slot(card, request) as slot:
            script = self._next_script() or echo.generate_script(request)
            async with aclosing(self._play(script, request, slot, prompt_count)) as pieces:
                async for piece in pieces:
                    yield _remembering(piece, request)

    async def embed(
        self, card: ModelCard, texts: Sequence[str], request: ModelRequest, *, truncate: bool
    ) -> Embedded:
        async with self._slot(card, request) as slot:
            vectors = [echo.embedding(text) for text in texts]
            return Embedded(vectors, sum(len(echo.words(text)) for text in texts), slot.load_ns)

    def close(self) -> None:
        for residency in self._residencies.values():
            residency.drop()

    @asynccontextmanager
    async def _slot(self, card: ModelCard, request: ModelRequest) -> AsyncIterator[Slot[FakeResident]]:
        async with self._residencies[card.name].slot(
            context_length=_context_length(card, request), keep_alive_s=request.keep_alive_s
        ) as slot:
            yield slot

    async def _start(self, _context_length: int) -> FakeResident:
        await self.may_load.wait()
        self.load_count += 1
        return FakeResident()

    def _next_script(self) -> Sequence[Step] | None:
        return self.scripts.popleft() if self.scripts else None

    async def _play(
        self,
        script: Iterable[Step],
        request: CompletionRequest,
        slot: Slot[FakeResident],
        prompt_count: int,
    ) -> Pieces:
        began_ns = time.perf_counter_ns()
        limit = request.parsed_options.predict_max
        reason: Literal["stop", "length"] = "stop"
        calls: list[ToolCall] = []
        written_count = 0
        for step in script:
            if isinstance(step, str):
                if written_count == limit:
                    reason = "length"
                    break
                if self._token_s:
                    await asyncio.sleep(self._token_s)
                written_count += 1
                yield Text(step)
            elif isinstance(step, Think):
                yield Thought(step.text)
            elif isinstance(step, Call):
                function = FunctionCall(step.name, dict(step.arguments), len(calls))
                calls.append(ToolCall(function, f"call_{len(calls)}"))
            elif isinstance(step, End):
                return
            else:
                await _disturb(step)
        yield Finished(
            reason=reason,
            prompt_eval_count=prompt_count,
            prompt_eval_ns=1 + slot.load_ns % 1000,
            eval_count=max(written_count, 1),
            eval_ns=time.perf_counter_ns() - began_ns,
            load_ns=slot.load_ns,
            calls=calls,
        )


async def _disturb(step: Refuse | Fail | Malformed | Hang | Cut | asyncio.Event) -> None:
    """Carry out a step that says nothing."""
    match step:
        case Refuse(status, text):
            raise RefusedError(status, text)
        case Fail(text):
            raise WireError(text)
        case Malformed(line):
            await current_request.get()[RESPONSE].write(line)
        case Hang():
            await _until_the_caller_leaves()
        case Cut():
            transport = current_request.get().transport
            assert transport is not None
            transport.abort()
            await _until_the_caller_leaves()  # Who is then found to have left.
        case asyncio.Event():
            await step.wait()


async def _until_the_caller_leaves() -> Never:
    await asyncio.Event().wait()
    raise AssertionError


def _remembering(piece: Piece, request: GenerateRequest) -> Piece:
    """A context as long as the prompt and the answer."""
    if not isinstance(piece, Finished) or request.raw:
        return piece
    return replace(piece, context=list(range(piece.prompt_eval_count + piece.eval_count)))


def _context_length(card: ModelCard, request: ModelRequest) -> int:
    return request.parsed_options.context_length or card.context_length_default
