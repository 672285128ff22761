"""Runs requests on llama.cpp. Implements ports.Backend."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import aiohttp

from deploy.local.models.catalog import MODELS, Kind, Model
from deploy.local.models.install import verified
from deploy.local.runtime.cards import card
from deploy.local.runtime.config import Config
from deploy.local.runtime.errors import LoadFailedError
from deploy.local.runtime.llama_server import Settings
from deploy.local.runtime.ports import Embedded, Finished, LoadedCard, ModelCard, Pieces, Text
from deploy.local.runtime.prompts import fitting, rendered
from deploy.local.runtime.residency import Residency, Slot
from deploy.local.runtime.runner import Event, Runner
from deploy.local.runtime.schemas import check_written, constraint
from deploy.local.runtime.tools import plan, read_call
from deploy.local.runtime.wire.requests import (
    ChatRequest,
    CompletionRequest,
    FunctionCall,
    GenerateRequest,
    ModelRequest,
    ToolCall,
)

EMBED_BATCH = 64  # Texts in one call to llama.cpp; between calls, a caller that left is noticed.

log = logging.getLogger(__name__)


class Engine:
    def __init__(self, config: Config, folder: Path, session: aiohttp.ClientSession) -> None:
        self._config = config
        self._folder = folder
        self._session = session
        self._verified: set[str] = set()
        self._runners: set[Runner] = set()
        self._models = {model.name: model for model in MODELS}
        self._cards = [card(model, folder) for model in MODELS]
        self._residencies = {
            model.name: Residency(
                partial(self._start, model),
                parallel=config.parallel,
                waiting_max=config.waiting_max,
                keep_alive_s=config.keep_alive_s,
            )
            for model in MODELS
        }

    def installed(self) -> Sequence[ModelCard]:
        return self._cards

    def loaded(self) -> Sequence[LoadedCard]:
        return [
            LoadedCard(card, *loaded)
            for card in self._cards
            if (loaded := self._residencies[card.name].loaded) is not None
        ]

    async def load(self, card: ModelCard, request: ModelRequest) -> None:
        async with self._residencies[card.name].using(
            context_length=self._context_length(card, request), keep_alive_s=request.keep_alive_s
        ):
            pass

    async def unload(self, card: ModelCard) -> None:
        self._residencies[card.name].unload()

    async def chat(self, card: ModelCard, request: ChatRequest) -> Pieces:
        turn = plan(request)
        async with self._slot(card, request) as slot:
            prompt = await rendered(
                slot.resident,
                turn.messages,
                context_length=slot.context_length,
                truncate=request.truncate is not False,
            )
            body = self._completion(request, slot, prompt, turn.constraint)
            written = ""
            async with aclosing(slot.resident.complete(body)) as events:
                async for event in events:
                    written += event.content
                    if turn.must_be_json:
                        check_written(written, ended=event.stop and not event.cut_short)
                    if event.content and not turn.must_call:
                        yield Text(event.content)
            end = _finished(event, slot)
            if turn.must_call and (call := read_call(written)) is not None:
                yield replace(end, calls=[_tool_call(call)])
                return
            if turn.must_call:
                yield Text(written)  # Out of tokens before the call was whole.
            yield end

    async def generate(self, card: ModelCard, request: GenerateRequest) -> Pieces:
        async with self._slot(card, request) as slot:
            prompt = await self._prompt(slot, request)
            body = self._completion(
                request, slot, prompt, {} if request.schema is None else constraint(request.schema)
            )
            written = ""
            async with aclosing(slot.resident.complete(body)) as events:
                async for event in events:
                    written += event.content
                    if request.schema is not None:
                        check_written(written, ended=event.stop and not event.cut_short)
                    if event.content:
                        yield Text(event.content)
            end = _finished(event, slot)
            context = [] if request.raw else await slot.resident.tokenize(prompt + written)
            yield replace(end, context=context)

    async def embed(
        self, card: ModelCard, texts: Sequence[str], request: ModelRequest, *, truncate: bool
    ) -> Embedded:
        vectors: list[list[float]] = []
        token_count = 0
        async with self._slot(card, request) as slot:
            for start in range(0, len(texts), EMBED_BATCH):
                batch = [
                    await fitting(slot.resident, text, slot.context_length, truncate=truncate)
                    for text in texts[start : start + EMBED_BATCH]
                ]
                embeddings = await slot.resident.embed(batch)
                vectors += embeddings.vectors
                token_count += embeddings.token_count
        return Embedded(vectors, token_count, slot.load_ns)

    async def close(self) -> None:
        for residency in self._residencies.values():
            residency.drop()
        await asyncio.gather(*(runner.wait() for runner in self._runners))

    async def _prompt(self, slot: Slot[Runner], request: GenerateRequest) -> str:
        if request.raw:
            return request.prompt
        system = [{"role": "system", "content": request.system}] if request.system else []
        messages = [*system, {"role": "user", "content": request.prompt}]
        before = await slot.resident.detokenize(request.context) if request.context else ""
        return before + await slot.resident.apply_template(messages)

    def _completion(
        self,
        request: CompletionRequest,
        slot: Slot[Runner],
        prompt: str,
        constraint: Mapping[str, object],
    ) -> Mapping[str, object]:
        sampling = request.parsed_options.sampling(context_length=slot.context_length)
        return {"prompt": prompt, **sampling, **constraint}

    @asynccontextmanager
    async def _slot(self, card: ModelCard, request: ModelRequest) -> AsyncIterator[Slot[Runner]]:
        async with self._residencies[card.name].slot(
            context_length=self._context_length(card, request), keep_alive_s=request.keep_alive_s
        ) as slot:
            yield slot

    def _context_length(self, card: ModelCard, request: ModelRequest) -> int:
        """Tokens; never more than the model was trained for."""
        model = self._models[card.name]
        wanted = request.parsed_options.context_length
        return min(wanted or self._default_context_length(model), model.context_length)

    def _default_context_length(self, model: Model) -> int:
        return min(self._config.context_length or model.context_length_default, model.context_length)

    async def _start(self, model: Model, context_length: int) -> Runner:
        began_s = time.monotonic()
        await self._verify(model)
        settings = Settings(
            model=str(self._folder / model.file),
            context_length=context_length,
            parallel=self._config.parallel,
            thread_count=self._config.thread_count,
            embedding=model.kind is Kind.EMBEDDING,
        )
        runner = await Runner.start(settings, self._session, timeout_s=self._config.load_timeout_s)
        self._runners = {known for known in self._runners if not known.exited} | {runner}
        log.info(
            "model loaded: %s, %d tokens, %.1f s", model.name, context_length, time.monotonic() - began_s
        )
        return runner

    async def _verify(self, model: Model) -> None:
        """By content, once: a damaged file would not fail to load, but babble."""
        if model.name in self._verified:
            return
        if not await asyncio.to_thread(verified, self._folder, model):
            raise LoadFailedError(
                f"{model.file} is damaged; run `python -m deploy.local.models {self._folder}`"
            )
        self._verified.add(model.name)


def _finished(event: Event, slot: Slot[Runner]) -> Finished:
    timings = event.timings
    return Finished(
        reason="length" if event.cut_short else "stop",
        prompt_eval_count=timings.cache_n + timings.prompt_n,
        prompt_eval_ns=int(timings.prompt_ms * 1e6),
        eval_count=timings.predicted_n,
        eval_ns=int(timings.predicted_ms * 1e6),
        load_ns=slot.load_ns,
    )


def _tool_call(call: FunctionCall) -> ToolCall:
    return ToolCall(call, f"call_{secrets.token_hex(4)}")
