"""REST as callers have it: a real Envoy before the real inference service, over instances of a test's choosing."""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from deploy.local.runtime.ports import ModelCard
from tests.fakes.fake_ollama import FakeOllama, fake_model
from tests.service import edge_app, inference_app
from tests.service.inference_app import TINY, WITHIN_S, Service, preload

VECTORS = fake_model("vectors:latest", "embedding")
Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What HTTP said."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def lines(self) -> list[Json]:
        return [msgspec.json.decode(line) for line in self.body.splitlines() if line]

    @property
    def events(self) -> list[Json]:
        """What server-sent events hold, but for the last one."""
        whole = [event.removeprefix("data: ") for event in self.body.decode().split("\n\n") if event]
        assert whole[-1] == "[DONE]"
        return [msgspec.json.decode(event) for event in whole[:-1]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """The edge, and what is behind it."""

    stack: edge_app.Stack
    service: Service

    @property
    def url(self) -> str:
        return self.stack.url

    def token(self, *, role: str = "user", org: str | None = None) -> str:
        return self.service.identity.token(role=role, org=org)

    def bearer(self, **who: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token(**who)}"}

    async def ask(
        self, method: str, path: str, body: object = None, *, headers: dict[str, str] | None = None
    ) -> Answer:
        """Make a request; without `headers`, as a user."""
        data = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
        sent = self.bearer() if headers is None else headers
        content = None if data is None else io.BytesIO(data)  # Of bytes, aiohttp warns when they are many.
        async with self.stack.http.request(method, f"{self.url}{path}", data=content, headers=sent) as answer:
            return Answer(
                status=answer.status,
                headers={name.lower(): value for name, value in answer.headers.items()},
                body=await answer.read(),
            )

    async def post(self, path: str, body: object, **more: Any) -> Answer:
        return await self.ask("POST", path, body, **more)

    async def get(self, path: str, **more: Any) -> Answer:
        return await self.ask("GET", path, **more)


@asynccontextmanager
async def edge_before(*urls: str, **settings: object) -> AsyncIterator[Rest]:
    """The service over instances, and the edge before it, ready to pass calls on."""
    async with AsyncExitStack() as opened:
        service = await opened.enter_async_context(inference_app.serving(*urls, **settings))
        keys = await opened.enter_async_context(service.identity.served())
        port = int(service.target.rpartition(":")[2])
        env = edge_app.settings(int(keys.rpartition(":")[2]), {"inference": (port,)})
        stack = await opened.enter_async_context(edge_app.serving(env))
        rest = Rest(stack=stack, service=service)
        await edge_app.until_healthy(stack, 1)
        async with asyncio.timeout(WITHIN_S):
            while (await rest.get("/api/version")).status == 503:  # Until Envoy has the keys.
                await asyncio.sleep(0.02)
        yield rest


@asynccontextmanager
async def one_fake(*models: ModelCard, **settings: object) -> AsyncIterator[tuple[Rest, FakeOllama]]:
    """The whole way to one scripted instance that has its models in memory."""
    async with FakeOllama(*(models or (TINY, VECTORS)), parallel=64) as fake:
        await preload(fake, *(models or (TINY, VECTORS)))
        async with edge_before(fake.url, **settings) as rest:
            yield rest, fake


async def next_line(answer: aiohttp.ClientResponse) -> bytes:
    async with asyncio.timeout(WITHIN_S):
        return await answer.content.readline()
