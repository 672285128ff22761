"""Plays scripts where the embedded runtime would ask llama.cpp. Implements ports.Backend."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial

from deploy.local.runtime.ports import Embedded, Finished, LoadedCard, ModelCard, Pieces
from deploy.local.runtime.residency import Residency, Slot
from deploy.local.runtime.wire.requests import ChatRequest, CompletionRequest, GenerateRequest, ModelRequest
from tests.fakes.fake_ollama import echo
from tests.fakes.fake_ollama.script import Step
from tests.fakes.fake_ollama.steps import play, remembering


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
        self._may_load = asyncio.Event()  # Cleared, it holds every load back.
        self._may_load.set()
        self._awake = asyncio.Event()  # Cleared, nothing that needs a model progresses.
        self._awake.set()
        self._closing = asyncio.Event()
        self.load_count = 0
        self._models = list(models)
        self._token_s = token_s
        self._residency = partial(
            Residency[FakeResident],
            self._start,
            parallel=parallel,
            waiting_max=waiting_max,
            keep_alive_s=keep_alive_s,
        )
        self._residencies = {card.name: self._residency() for card in models}

    def installed(self) -> Sequence[ModelCard]:
        return self._models

    def install(self, card: ModelCard, _like: ModelCard | None) -> None:
        self._models.append(card)
        self._residencies[card.name] = self._residency()

    def remove(self, card: ModelCard) -> None:
        self._models.remove(card)
        self._residencies.pop(card.name).drop()

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
            script = self._next_script(request) or echo.chat_script(request)
            async with aclosing(self._play(script, request, slot, len(echo.words(prompt)))) as pieces:
                async for piece in pieces:
                    yield piece

    async def generate(self, card: ModelCard, request: GenerateRequest) -> Pieces:
        prompt_count = len(request.context or []) + len(echo.words(request.prompt))
        async with self._slot(card, request) as slot:
            script = self._next_script(request) or echo.generate_script(request)
            async with aclosing(self._play(script, request, slot, prompt_count)) as pieces:
                async for piece in pieces:
                    yield remembering(piece, request)

    async def embed(
        self, card: ModelCard, texts: Sequence[str], request: ModelRequest, *, truncate: bool
    ) -> Embedded:
        async with self._slot(card, request) as slot:
            await self._awake.wait()
            vectors = [echo.embedding(text) for text in texts]
            return Embedded(vectors, sum(len(echo.words(text)) for text in texts), slot.load_ns)

    def hold_loads(self) -> None:
        self._may_load.clear()

    def let_load(self) -> None:
        self._may_load.set()

    def wedge(self) -> None:
        self._awake.clear()

    def restart(self) -> None:
        self._awake.set()
        for residency in self._residencies.values():
            residency.drop()

    def close(self) -> None:
        self._closing.set()
        self.restart()

    @asynccontextmanager
    async def _slot(self, card: ModelCard, request: ModelRequest) -> AsyncIterator[Slot[FakeResident]]:
        async with self._residencies[card.name].slot(
            context_length=_context_length(card, request), keep_alive_s=request.keep_alive_s
        ) as slot:
            yield slot

    async def _start(self, _context_length: int) -> FakeResident:
        await self._may_load.wait()
        await self._awake.wait()
        self.load_count += 1
        return FakeResident()

    def _next_script(self, request: CompletionRequest) -> Sequence[Step] | None:
        return self.scripts.popleft() if self.scripts and not echo.is_probe(request) else None

    async def _play(
        self,
        script: Iterable[Step],
        request: CompletionRequest,
        slot: Slot[FakeResident],
        prompt_count: int,
    ) -> Pieces:
        pace = _Metronome(self._token_s, self._awake, prompt_count, slot.load_ns)
        limit = request.parsed_options.predict_max
        async with aclosing(play(script, limit=limit, pace=pace, closing=self._closing)) as pieces:
            async for piece in pieces:
                yield piece


class _Metronome:
    """A token whenever some time has passed, unless the fake is wedged."""

    def __init__(self, token_s: float, awake: asyncio.Event, prompt_count: int, load_ns: int) -> None:
        self._token_s = token_s
        self._awake = awake
        self._prompt_count = prompt_count
        self._load_ns = load_ns
        self._began_ns = time.perf_counter_ns()

    async def reached(self, _token_count: int) -> None:
        await self._awake.wait()
        if self._token_s:
            await asyncio.sleep(self._token_s)

    async def end(self, token_count: int) -> Finished:
        await self._awake.wait()
        return Finished(
            reason="stop",
            prompt_eval_count=self._prompt_count,
            prompt_eval_ns=1 + self._load_ns % 1000,
            eval_count=max(token_count, 1),
            eval_ns=time.perf_counter_ns() - self._began_ns,
            load_ns=self._load_ns,
        )


def _context_length(card: ModelCard, request: ModelRequest) -> int:
    return request.parsed_options.context_length or card.context_length_default
