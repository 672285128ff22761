"""An Ollama server, over its own HTTP API."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

from services.inference.adapters.answers import (
    Embeddings,
    Loaded,
    Process,
    Processes,
    Shown,
    Tags,
    Version,
    card,
    context_token_count_max,
    load_s,
    resident,
)
from services.inference.adapters.bodies import (
    completion_body,
    embed_body,
    encode,
    load_body,
    probe_body,
    unload_body,
)
from services.inference.adapters.connection import Patience
from services.inference.adapters.readers import StreamReader, WholeReader, known_words
from services.inference.adapters.shelf import OllamaShelf
from services.inference.adapters.wire import Wire, decoded
from services.inference.core.admission import Order
from services.inference.core.asks import Chat, Embed
from services.inference.core.endpoints import Endpoint
from services.inference.core.ledger import Report
from services.inference.core.names import key
from services.inference.core.options import Value
from services.inference.ports import Description, Fault, Outcome, Piece, Sink, Trouble, Vectors

# 2,048 vectors of 4,096 numbers of 20 characters would be 160 MiB; no gateway should hold that.
EMBEDDINGS_BYTES_MAX = 64 * 1024 * 1024
# Ollama answers an unload before it is done, and gives a driver up to 5 s to hand the memory back.
UNLOAD_S = 10.0
UNLOAD_POLL_S = 0.02
DESCRIPTIONS_MAX = 2  # At once: callers ask for them outside the scheduler.


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long an instance may keep us waiting."""

    connect_s: float
    first_token_s: float  # Includes reading the prompt, and loading a model that was dropped meanwhile.
    load_s: float
    stall_s: float
    listing_s: float


class Ollama:
    """One server. The caller bounds how many completions and embeddings run at once."""

    def __init__(
        self, endpoint: Endpoint, *, timeouts: Timeouts, connections_max: int, api_key: str | None
    ) -> None:
        self._working = Patience(first_s=timeouts.first_token_s, stall_s=timeouts.stall_s)
        self._loading = Patience(first_s=timeouts.load_s, stall_s=timeouts.load_s)
        self._describing = asyncio.Semaphore(DESCRIPTIONS_MAX)
        self._wire = Wire(
            endpoint,
            connect_timeout_s=timeouts.connect_s,
            idle_max=connections_max,
            listing=Patience(first_s=timeouts.listing_s, stall_s=timeouts.listing_s),
            api_key=api_key,
        )
        self.shelf = OllamaShelf(self._wire)

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, endpoint: Endpoint, *, timeouts: Timeouts, connections_max: int, api_key: str | None
    ) -> AsyncIterator[Self]:
        """Connect when needed; close at the end what is idle. What is in use closes with its user."""
        ollama = cls(endpoint, timeouts=timeouts, connections_max=connections_max, api_key=api_key)
        try:
            yield ollama
        finally:
            await ollama._wire.pool.close()

    async def complete(self, order: Order, model: str, sink: Sink, *, first_token_s: float) -> None:
        def request() -> bytes:
            return self._wire.request("POST", *completion_body(order, model))

        reader = StreamReader(sink)
        path = "/api/chat" if isinstance(order.ask, Chat) else "/api/generate"
        with self._wire.traced("POST", path, reader):
            await self._wire.pool.exchange(request, reader, self._patience(first_token_s))
        reader.check(model)

    async def embed(self, order: Order, model: str, *, first_token_s: float) -> Vectors:
        assert isinstance(order.ask, Embed)
        reader = WholeReader(bytes_max=EMBEDDINGS_BYTES_MAX)
        request = self._wire.request("POST", "/api/embed", embed_body(order, model))
        with self._wire.traced("POST", "/api/embed", reader):
            await self._wire.send(request, reader, self._patience(first_token_s))
        answer = decoded(reader.body(model), Embeddings)
        if len(answer.embeddings) != len(order.ask.inputs):
            raise Trouble(Fault.BROKEN, "as many vectors as texts were due")
        return Vectors(vectors=answer.embeddings, prompt_token_count=answer.prompt_eval_count)

    async def load(
        self, model: str, *, embeds: bool, options: Mapping[str, Value], keep_alive_s: float
    ) -> float:
        loop = asyncio.get_running_loop()
        began_at_s = loop.time()
        path, body = load_body(model, embeds=embeds, options=options, keep_alive_s=keep_alive_s)
        answer = await self._wire.asked("POST", path, Loaded, body, patience=self._loading)
        if answer.error is not None or not (embeds or answer.done):
            raise Trouble(Fault.BROKEN, f"it did not load{known_words(answer.error or '')}")
        return load_s(answer) or loop.time() - began_at_s

    async def unload(self, model: str) -> None:
        path, body = unload_body(model)
        await self._wire.asked("POST", path, Loaded, body, patience=self._wire.listing)
        try:
            async with asyncio.timeout(UNLOAD_S):
                while await self._lists(model):  # noqa: ASYNC110 - Ollama does not tell when it is done.
                    await asyncio.sleep(UNLOAD_POLL_S)
        except TimeoutError:
            raise Trouble(Fault.STALLED, f"it did not unload within {UNLOAD_S:g} s") from None

    async def probe(
        self, model: str | None, *, embeds: bool = False, options: Mapping[str, Value] | None = None
    ) -> None:
        if model is None:
            await self._wire.asked("GET", "/api/version", Version)
            return
        path, body = probe_body(model, embeds=embeds, options=options or {})
        reader = WholeReader(bytes_max=EMBEDDINGS_BYTES_MAX) if embeds else StreamReader(_Nothing())
        await self._wire.send(self._wire.request("POST", path, body), reader, self._working)
        reader.check(None)

    async def report(self) -> Report:
        version = await self._wire.asked("GET", "/api/version", Version)
        tags = await self._wire.asked("GET", "/api/tags", Tags)
        processes = await self._processes()
        return Report(
            version=version.version,
            cards=tuple(card(tag) for tag in tags.models or ()),
            residents=tuple(resident(process) for process in processes),
        )

    async def describe(self, model: str) -> Description:
        async with self._describing:
            shown = await self._wire.asked("POST", "/api/show", Shown, encode({"model": model}), model=model)
        return Description(
            template=shown.template or "",
            license=shown.license or "",
            context_token_count_max=context_token_count_max(shown),
        )

    async def _lists(self, model: str) -> bool:
        """Whether it says that the model is loaded."""
        return any(key(process.name) == key(model) for process in await self._processes())

    async def _processes(self) -> list[Process]:
        return (await self._wire.asked("GET", "/api/ps", Processes)).models or []

    def _patience(self, first_token_s: float) -> Patience:
        return Patience(first_s=min(first_token_s, self._working.first_s), stall_s=self._working.stall_s)


class _Nothing:
    """A sink for what nobody reads."""

    by_token = False

    def write(self, piece: Piece) -> bool:  # noqa: ARG002
        return True

    def finish(self, outcome: Outcome) -> None:
        """It ended; that was the question."""
