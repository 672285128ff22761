"""Plays scripts at the pace of a modelled machine, by its rules. Implements ports.Backend."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import inf, isinf

from deploy.local.runtime.ports import Embedded, Finished, LoadedCard, ModelCard, Pieces
from deploy.local.runtime.residency import FOR_EVER
from deploy.local.runtime.wire.requests import ChatRequest, CompletionRequest, GenerateRequest, ModelRequest
from services.inference.simulation.parts import MachineSpec, ModelSpec, RunnerOptions
from tests.fakes.fake_ollama import echo
from tests.fakes.fake_ollama.clockwork import Clockwork, Work
from tests.fakes.fake_ollama.faults import RefusedError
from tests.fakes.fake_ollama.prompts import (
    Blocks,
    answer_key,
    chat_blocks,
    embed_blocks,
    generate_blocks,
)
from tests.fakes.fake_ollama.script import Hang, Refuse, Step
from tests.fakes.fake_ollama.steps import play, remembering

# Ollama's; any that differs reloads the model.
RUNNER_OPTIONS = (
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "use_mmap",
    "num_thread",
    "draft_num_predict",
)
ENDLESS = 1_000_000_000  # Tokens of an answer that hangs: its slot stays busy.


class MachineBackend:
    def __init__(
        self, models: Sequence[ModelCard], *, machine: MachineSpec, specs: Mapping[str, ModelSpec]
    ) -> None:
        self.scripts: deque[Sequence[Step]] = deque()
        self._specs = dict(specs)
        self.clockwork = Clockwork(machine, self._specs)
        self.machine = self.clockwork.machine
        self._models = list(models)
        self._closing = asyncio.Event()

    def hold_loads(self) -> None:
        self.machine.loads_held = True

    def let_load(self) -> None:
        self.machine.loads_held = False
        self.clockwork.look()

    @property
    def load_count(self) -> int:
        return self.machine.load_count

    @property
    def busy_count(self) -> int:
        return sum(resident.busy_count for resident in self.machine.residents(self.clockwork.now_s()))

    def wedge(self) -> None:
        self.clockwork.wedge()

    def restart(self) -> None:
        self.clockwork.restart()

    def close(self) -> None:
        self._closing.set()
        self.clockwork.close()

    def installed(self) -> Sequence[ModelCard]:
        return self._models

    def install(self, card: ModelCard, like: ModelCard | None) -> None:
        """Only what is like another model: nobody knows what else would cost."""
        assert like is not None
        self._specs[card.name] = replace(self._specs[like.name], name=card.name)
        self._models.append(card)

    def remove(self, card: ModelCard) -> None:
        """Free its memory first: it is shown as long as it is loaded."""
        self._models.remove(card)

    def loaded(self) -> Sequence[LoadedCard]:
        """As in Ollama, with what is still being loaded."""
        now_s = self.clockwork.now_s()
        cards = {card.name: card for card in self._models}
        return [
            LoadedCard(
                cards[resident.model],
                _date(resident.expires_at_s - now_s),
                _context_length(resident.runner),
                resident.vram_bytes,
            )
            for resident in self.machine.residents(now_s)
        ]

    async def load(self, card: ModelCard, request: ModelRequest) -> None:
        with self._work(card, request) as work:
            await work.finished()

    async def unload(self, card: ModelCard) -> None:
        self.clockwork.unload(card.name)

    async def chat(self, card: ModelCard, request: ChatRequest) -> Pieces:
        script = list(self._next_script(request) or echo.chat_script(request))
        async with aclosing(self._play(card, request, script, chat_blocks(request))) as pieces:
            async for piece in pieces:
                yield piece

    async def generate(self, card: ModelCard, request: GenerateRequest) -> Pieces:
        script = list(self._next_script(request) or echo.generate_script(request))
        async with aclosing(self._play(card, request, script, generate_blocks(request))) as pieces:
            async for piece in pieces:
                yield remembering(piece, request)

    async def embed(
        self, card: ModelCard, texts: Sequence[str], request: ModelRequest, *, truncate: bool
    ) -> Embedded:
        with self._work(card, request, prompt=embed_blocks(texts)) as work:
            end = await work.finished()
        return Embedded([echo.embedding(text) for text in texts], end.prompt_token_count, _ns(end.load_s))

    def _next_script(self, request: CompletionRequest) -> Sequence[Step] | None:
        return self.scripts.popleft() if self.scripts and not echo.is_probe(request) else None

    async def _play(
        self, card: ModelCard, request: CompletionRequest, script: Sequence[Step], prompt: Blocks
    ) -> Pieces:
        if script and isinstance(script[0], Refuse):
            raise RefusedError(script[0].status, script[0].text)  # Before it costs anything.
        limit = request.parsed_options.predict_max
        tokens = [step for step in script if isinstance(step, str)][:limit]
        hangs = any(isinstance(step, Hang) for step in script)
        with self._work(
            card,
            request,
            prompt=prompt,
            output_token_count=ENDLESS if hangs else max(1, len(tokens)),
            answer_key=answer_key("".join(tokens)),
        ) as work:
            pieces = play(script, limit=limit, pace=_MachinePace(work), closing=self._closing)
            async with aclosing(pieces):
                async for piece in pieces:
                    yield piece

    def _work(
        self,
        card: ModelCard,
        request: ModelRequest,
        *,
        prompt: Blocks = (),
        output_token_count: int = 0,
        answer_key: str = "",
    ) -> AbstractContextManager[Work]:
        return self.clockwork.work(
            card.name,
            _runner_options(card, request),
            prompt=prompt,
            output_token_count=output_token_count,
            keep_alive_s=_keep_alive_s(request),
            answer_key=answer_key,
        )


class _MachinePace:
    def __init__(self, work: Work) -> None:
        self._work = work

    async def reached(self, token_count: int) -> None:
        await self._work.reached(token_count)

    async def end(self, _token_count: int) -> Finished:
        end = await self._work.finished()
        return Finished(
            reason="stop",
            prompt_eval_count=end.prompt_token_count,
            prompt_eval_ns=_ns(end.prompt_s),
            eval_count=end.output_token_count,
            eval_ns=_ns(end.output_s),
            load_ns=_ns(end.load_s),
        )


def _runner_options(card: ModelCard, request: ModelRequest) -> RunnerOptions:
    given = request.options or {}
    options = {name: given[name] for name in RUNNER_OPTIONS if given.get(name) is not None}
    options["num_ctx"] = request.parsed_options.context_length or card.context_length_default
    return tuple(sorted(options.items()))


def _context_length(runner: RunnerOptions) -> int:
    length = dict(runner)["num_ctx"]
    assert isinstance(length, int)
    return length


def _keep_alive_s(request: ModelRequest) -> float | None:
    return -1.0 if request.keep_alive_s == inf else request.keep_alive_s


def _date(after_s: float) -> datetime:
    return datetime.now(UTC) + (FOR_EVER if isinf(after_s) else timedelta(seconds=after_s))


def _ns(duration_s: float) -> int:
    """At least one, as a real clock would have it."""
    return max(1, int(duration_s * 1e9))
