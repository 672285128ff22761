"""An Ollama server, over its own HTTP API."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self, TypeVar

import msgspec

from services.inference.adapters.answers import (
    NOT_OF_THE_SHAPE,
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
from services.inference.adapters.pool import Pool
from services.inference.adapters.readers import StreamReader, WholeReader, known_words
from services.inference.core.admission import Order
from services.inference.core.asks import Embed
from services.inference.core.endpoints import Endpoint
from services.inference.core.ledger import Report
from services.inference.core.names import key
from services.inference.core.options import Value
from services.inference.ports import Description, Fault, Outcome, Piece, Sink, Trouble, Vectors

# 2,048 vectors of 4,096 numbers of 20 characters would be 160 MiB; no gateway should hold that.
EMBEDDINGS_BYTES_MAX = 64 * 1024 * 1024
LISTING_BYTES_MAX = 16 * 1024 * 1024
# Ollama answers an unload before it is done, and gives a driver up to 5 s to hand the memory back.
UNLOAD_S = 10.0
UNLOAD_POLL_S = 0.02
DESCRIPTIONS_MAX = 2  # At once: callers ask for them outside the scheduler.

Answer = TypeVar("Answer")


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
        self._pool = Pool(endpoint, connect_timeout_s=timeouts.connect_s, idle_max=connections_max)
        self._working = Patience(first_s=timeouts.first_token_s, stall_s=timeouts.stall_s)
        self._loading = Patience(first_s=timeouts.load_s, stall_s=timeouts.load_s)
        self._listing = Patience(first_s=timeouts.listing_s, stall_s=timeouts.listing_s)
        self._describing = asyncio.Semaphore(DESCRIPTIONS_MAX)
        self._prefix = endpoint.prefix
        authorization = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
        self._headers = f"Host: {endpoint.authority}\r\n{authorization}"

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
            await ollama._pool.close()

    async def complete(self, order: Order, model: str, sink: Sink, *, first_token_s: float) -> None:
        def request() -> bytes:
            return self._request("POST", *completion_body(order, model))

        reader = StreamReader(sink)
        await self._pool.exchange(request, reader, self._patience(first_token_s))
        reader.check(model)

    async def embed(self, order: Order, model: str, *, first_token_s: float) -> Vectors:
        assert isinstance(order.ask, Embed)
        reader = WholeReader(bytes_max=EMBEDDINGS_BYTES_MAX)
        request = self._request("POST", "/api/embed", embed_body(order, model))
        await self._pool.exchange(lambda: request, reader, self._patience(first_token_s))
        answer = _decoded(reader.body(model), Embeddings)
        if len(answer.embeddings) != len(order.ask.inputs):
            raise Trouble(Fault.BROKEN, "as many vectors as texts were due")
        return Vectors(vectors=answer.embeddings, prompt_token_count=answer.prompt_eval_count)

    async def load(
        self, model: str, *, embeds: bool, options: Mapping[str, Value], keep_alive_s: float
    ) -> float:
        loop = asyncio.get_running_loop()
        began_at_s = loop.time()
        path, body = load_body(model, embeds=embeds, options=options, keep_alive_s=keep_alive_s)
        answer = await self._asked("POST", path, Loaded, body, patience=self._loading)
        if answer.error is not None or not (embeds or answer.done):
            raise Trouble(Fault.BROKEN, f"it did not load{known_words(answer.error or '')}")
        return load_s(answer) or loop.time() - began_at_s

    async def unload(self, model: str) -> None:
        path, body = unload_body(model)
        await self._asked("POST", path, Loaded, body, patience=self._listing)
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
            await self._asked("GET", "/api/version", Version)
            return
        path, body = probe_body(model, embeds=embeds, options=options or {})
        reader = WholeReader(bytes_max=EMBEDDINGS_BYTES_MAX) if embeds else StreamReader(_Nothing())
        request = self._request("POST", path, body)
        await self._pool.exchange(lambda: request, reader, self._working)
        reader.check(None)

    async def report(self) -> Report:
        version = await self._asked("GET", "/api/version", Version)
        tags = await self._asked("GET", "/api/tags", Tags)
        processes = await self._processes()
        return Report(
            version=version.version,
            cards=tuple(card(tag) for tag in tags.models or ()),
            residents=tuple(resident(process) for process in processes),
        )

    async def describe(self, model: str) -> Description:
        async with self._describing:
            shown = await self._asked("POST", "/api/show", Shown, encode({"model": model}), model=model)
        return Description(
            template=shown.template or "",
            license=shown.license or "",
            context_token_count_max=context_token_count_max(shown),
        )

    async def _lists(self, model: str) -> bool:
        """Whether it says that the model is loaded."""
        return any(key(process.name) == key(model) for process in await self._processes())

    async def _processes(self) -> list[Process]:
        return (await self._asked("GET", "/api/ps", Processes)).models or []

    async def _asked(
        self,
        method: str,
        path: str,
        kind: type[Answer],
        body: bytes = b"",
        *,
        model: str | None = None,
        patience: Patience | None = None,
    ) -> Answer:
        """Return a whole answer. `model` is the one a caller asked about, if one did."""
        reader = WholeReader(bytes_max=LISTING_BYTES_MAX)
        request = self._request(method, path, body)
        await self._pool.exchange(lambda: request, reader, patience or self._listing)
        return _decoded(reader.body(model), kind)

    def _patience(self, first_token_s: float) -> Patience:
        return Patience(first_s=min(first_token_s, self._working.first_s), stall_s=self._working.stall_s)

    def _request(self, method: str, path: str, body: bytes) -> bytes:
        content = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        return f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._headers}{content}\r\n".encode() + body


class _Nothing:
    """A sink for what nobody reads."""

    by_token = False

    def write(self, piece: Piece) -> bool:  # noqa: ARG002
        return True

    def finish(self, outcome: Outcome) -> None:
        """It ended; that was the question."""


def _decoded(body: bytes, kind: type[Answer]) -> Answer:
    try:
        return msgspec.json.decode(body, type=kind)
    except NOT_OF_THE_SHAPE as error:
        raise Trouble(Fault.BROKEN, "an answer of another shape") from error
