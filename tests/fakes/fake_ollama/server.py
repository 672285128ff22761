"""Serves a scripted backend, and remembers who asked what and how it ended."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Self

import msgspec
from aiohttp import web

from deploy.local.runtime.api.app import application, serving
from deploy.local.runtime.ports import LoadedCard, ModelCard
from tests.fakes.fake_ollama.backend import RESPONSE, ScriptedBackend, current_request
from tests.fakes.fake_ollama.models import CHAT_MODEL, EMBEDDING_MODEL
from tests.fakes.fake_ollama.script import Step


class Outcome(StrEnum):
    OPEN = "open"
    ANSWERED = "answered"  # Whatever the answer was.
    LEFT = "left"  # The caller hung up, or the script did.


@dataclass(slots=True)
class Recorded:
    path: str
    body: dict[str, object]
    authorization: str | None
    outcome: Outcome = Outcome.OPEN
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class FakeOllama:
    """Use as an async context manager; see the package for how to script it."""

    def __init__(
        self,
        *models: ModelCard,
        parallel: int = 4,
        waiting_max: int = 512,
        keep_alive_s: float = 300.0,
        token_s: float = 0.0,
    ) -> None:
        """`token_s` is slept before each token, so that a reply lasts."""
        self.requests: list[Recorded] = []
        self.url = ""
        self._backend = ScriptedBackend(
            models or (CHAT_MODEL, EMBEDDING_MODEL),
            parallel=parallel,
            waiting_max=waiting_max,
            keep_alive_s=keep_alive_s,
            token_s=token_s,
        )
        self._open = AsyncExitStack()

    def script(self, *steps: Step) -> None:
        """What the next completion without a script does."""
        self._backend.scripts.append(steps)

    def hold_loads(self) -> None:
        """From now on models load only after `let_load`."""
        self._backend.may_load.clear()

    def let_load(self) -> None:
        self._backend.may_load.set()

    @property
    def load_count(self) -> int:
        return self._backend.load_count

    @property
    def loaded(self) -> list[LoadedCard]:
        return list(self._backend.loaded())

    def asked(self, path: str) -> list[Recorded]:
        return [request for request in self.requests if request.path == path]

    async def serve(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        app = application(self._backend)
        app.middlewares.insert(0, self._recording)
        app.on_response_prepare.append(_remember_response)
        bound_port = await self._open.enter_async_context(serving(app, host=host, port=port))
        self._open.callback(self._backend.close)
        self.url = f"http://{host}:{bound_port}"

    async def close(self) -> None:
        await self._open.aclose()

    async def __aenter__(self) -> Self:
        await self.serve()
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def _recording(self) -> Callable[..., Awaitable[web.StreamResponse]]:
        @web.middleware
        async def record(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            recorded = Recorded(
                request.path, _body(await request.read()), request.headers.get("Authorization")
            )
            self.requests.append(recorded)
            current_request.set(request)
            try:
                response = await handler(request)
            except asyncio.CancelledError:
                recorded.outcome = Outcome.LEFT
                raise
            else:
                recorded.outcome = Outcome.ANSWERED
                return response
            finally:
                recorded.ended.set()

        return record


async def _remember_response(request: web.Request, response: web.StreamResponse) -> None:
    request[RESPONSE] = response


def _body(raw: bytes) -> dict[str, object]:
    """Empty for what is no JSON object: the routes under test judge it."""
    try:
        return msgspec.json.decode(raw, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError):
        return {}
