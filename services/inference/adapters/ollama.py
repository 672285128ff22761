"""An Ollama server, over its own HTTP API."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self, TypeVar

import msgspec

from services.inference.adapters.answers import (
    NOT_OF_THE_SHAPE,
    Embeddings,
    Processes,
    Shown,
    Tags,
    Version,
    card,
    context_token_count_max,
    resident,
)
from services.inference.adapters.bodies import completion_body, embed_body, encode
from services.inference.adapters.connection import Patience
from services.inference.adapters.pool import Pool
from services.inference.adapters.readers import StreamReader, WholeReader
from services.inference.core.admission import Order
from services.inference.core.asks import Embed
from services.inference.core.endpoints import Endpoint
from services.inference.core.ledger import Report
from services.inference.ports import Description, Fault, Sink, Trouble, Vectors

# 2,048 vectors of 4,096 numbers of 20 characters would be 160 MiB; no gateway should hold that.
EMBEDDINGS_BYTES_MAX = 64 * 1024 * 1024
LISTING_BYTES_MAX = 16 * 1024 * 1024
DESCRIPTIONS_MAX = 2  # At once: callers ask for them outside the scheduler.

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long an instance may keep us waiting."""

    connect_s: float
    first_token_s: float  # Includes loading the model and reading the prompt.
    stall_s: float
    listing_s: float


class Ollama:
    """One server. The caller bounds how many completions and embeddings run at once."""

    def __init__(
        self, endpoint: Endpoint, *, timeouts: Timeouts, connections_max: int, api_key: str | None
    ) -> None:
        self._pool = Pool(endpoint, connect_timeout_s=timeouts.connect_s, idle_max=connections_max)
        self._working = Patience(first_s=timeouts.first_token_s, stall_s=timeouts.stall_s)
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

    async def complete(self, order: Order, model: str, sink: Sink) -> None:
        path, body = completion_body(order, model)
        reader = StreamReader(sink)
        await self._pool.exchange(self._request("POST", path, body), reader, self._working)
        reader.check(model)

    async def embed(self, order: Order, model: str) -> Vectors:
        assert isinstance(order.ask, Embed)
        reader = WholeReader(bytes_max=EMBEDDINGS_BYTES_MAX)
        request = self._request("POST", "/api/embed", embed_body(order.ask, model, order.options))
        await self._pool.exchange(request, reader, self._working)
        answer = _decoded(reader.body(model), Embeddings)
        if len(answer.embeddings) != len(order.ask.inputs):
            raise Trouble(Fault.BROKEN, "as many vectors as texts were due")
        return Vectors(vectors=answer.embeddings, prompt_token_count=answer.prompt_eval_count)

    async def report(self) -> Report:
        version = await self._listed("GET", "/api/version", Version)
        tags = await self._listed("GET", "/api/tags", Tags)
        processes = await self._listed("GET", "/api/ps", Processes)
        return Report(
            version=version.version,
            cards=tuple(card(tag) for tag in tags.models or ()),
            residents=tuple(resident(process) for process in processes.models or ()),
        )

    async def describe(self, model: str) -> Description:
        async with self._describing:
            shown = await self._listed("POST", "/api/show", Shown, encode({"model": model}), model=model)
        return Description(
            template=shown.template or "",
            license=shown.license or "",
            context_token_count_max=context_token_count_max(shown),
        )

    async def _listed(
        self, method: str, path: str, kind: type[Answer], body: bytes = b"", *, model: str | None = None
    ) -> Answer:
        reader = WholeReader(bytes_max=LISTING_BYTES_MAX)
        await self._pool.exchange(self._request(method, path, body), reader, self._listing)
        return _decoded(reader.body(model), kind)

    def _request(self, method: str, path: str, body: bytes) -> bytes:
        content = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        return f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._headers}{content}\r\n".encode() + body


def _decoded(body: bytes, kind: type[Answer]) -> Answer:
    try:
        return msgspec.json.decode(body, type=kind)
    except NOT_OF_THE_SHAPE as error:
        raise Trouble(Fault.BROKEN, "an answer of another shape") from error
