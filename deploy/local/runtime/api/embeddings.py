"""`/api/embed`, and `/api/embeddings` as it was before."""

import time

from aiohttp import web

from deploy.local.runtime.api.http import find, json_reply
from deploy.local.runtime.errors import InvalidInputError, ModelRequiredError, NoEmbeddingsError
from deploy.local.runtime.ports import Backend, ModelCard
from deploy.local.runtime.wire.replies import EmbeddingReply, EmbedReply
from deploy.local.runtime.wire.requests import EmbeddingRequest, EmbedRequest, parse
from deploy.local.runtime.wire.vectors import unit


class Embeddings:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def embed(self, request: web.Request) -> web.StreamResponse:
        began_ns = time.perf_counter_ns()
        body = parse(await request.read(), EmbedRequest)
        _ = body.keep_alive_s  # A duration that does not parse is the first thing Ollama says.
        texts = _texts(body.input)
        card = self._embedder(body.model)
        if not texts:
            await self._backend.load(card, body)
            return json_reply(EmbedReply(model=body.model, embeddings=[]))
        embedded = await self._backend.embed(card, texts, body, truncate=body.truncate is not False)
        return json_reply(
            EmbedReply(
                model=body.model,
                embeddings=[unit(vector, dimensions=body.dimensions) for vector in embedded.vectors],
                total_duration=time.perf_counter_ns() - began_ns,
                load_duration=embedded.load_ns,
                prompt_eval_count=embedded.prompt_eval_count,
            )
        )

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        body = parse(await request.read(), EmbeddingRequest)
        _ = body.keep_alive_s
        if not body.model:
            raise ModelRequiredError
        card = self._embedder(body.model)
        if not body.prompt:
            await self._backend.load(card, body)
            return json_reply(EmbeddingReply([]))
        embedded = await self._backend.embed(card, [body.prompt], body, truncate=True)
        return json_reply(EmbeddingReply(embedded.vectors[0]))

    def _embedder(self, name: str) -> ModelCard:
        card = find(self._backend, name)
        if "embedding" not in card.capabilities:
            raise NoEmbeddingsError
        return card


def _texts(given: object) -> list[str]:
    match given:
        case None | "":
            return []
        case str():
            return [given]
        case list() if all(isinstance(text, str) for text in given):
            return given
        case _:
            raise InvalidInputError
