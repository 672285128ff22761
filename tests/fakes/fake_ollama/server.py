"""Serves a scripted backend, and remembers who asked what and how it ended."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import TracebackType
from typing import Self

import msgspec
from aiohttp import web

from deploy.local.runtime.api.app import application
from deploy.local.runtime.ports import LoadedCard, ModelCard
from deploy.local.runtime.wire.names import full_name
from services.inference.simulation.machine import Machine
from services.inference.simulation.parts import MachineSpec, ModelSpec
from tests.fakes.fake_ollama.backend import ScriptedBackend
from tests.fakes.fake_ollama.faults import RESPONSE, current_request, cut, hang_up
from tests.fakes.fake_ollama.machine_backend import MachineBackend
from tests.fakes.fake_ollama.models import CHAT_MODEL, EMBEDDING_MODEL, fake_model
from tests.fakes.fake_ollama.script import Step
from tests.fakes.fake_ollama.shelf import FakeShelf, PullStep
from tests.fakes.ports import bound, port_of

REQUESTS_MAX = 10_000  # Remembered.


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
    """Use as an async context manager; see the package for how to script it and what a machine changes."""

    def __init__(
        self,
        *models: ModelCard,
        parallel: int = 4,
        waiting_max: int = 512,
        keep_alive_s: float = 300.0,
        token_s: float = 0.0,
        machine: MachineSpec | None = None,
        specs: Mapping[str, ModelSpec] | None = None,
    ) -> None:
        """`token_s` is slept before each token, so that a reply lasts. With a `machine`, it and `specs` (by the
        models' names) say all that the other arguments would; without `models`, those of `specs` can chat.
        """
        self.requests: list[Recorded] = []
        self.url = ""
        self._backend: ScriptedBackend | MachineBackend
        if machine is None:
            self._backend = ScriptedBackend(
                models or (CHAT_MODEL, EMBEDDING_MODEL),
                parallel=parallel,
                waiting_max=waiting_max,
                keep_alive_s=keep_alive_s,
                token_s=token_s,
            )
        else:
            self._backend = _machine_backend(models, machine, specs or {})
        self._shelf = FakeShelf(self._backend)
        self._open = AsyncExitStack()
        self._served: dict[int, web.Request] = {}  # By identity.
        self._runner: web.AppRunner | None = None
        self._site: web.SockSite | None = None
        self._address = ("", 0)

    # What it does on cue

    def script(self, *steps: Step) -> None:
        """What the next completion without a script does."""
        self._backend.scripts.append(steps)

    def offer(self, card: ModelCard, *steps: PullStep) -> None:
        """Let the registry have a model. How a pull of it goes, the steps say: see shelf.py."""
        self._shelf.offer(card, *steps)

    def hold_loads(self) -> None:
        """From now on models load only after `let_load`."""
        self._backend.hold_loads()

    def let_load(self) -> None:
        self._backend.let_load()

    def wedge(self) -> None:
        """From now on nothing that needs a model progresses, though the rest is answered, until `restart`."""
        self._backend.wedge()

    def restart(self) -> None:
        """Break every connection that waits for something, and have nothing loaded."""
        self._backend.restart()
        for request in self._served.values():
            cut(request)

    async def refuse(self) -> None:
        """From now on refuse connections, and break those that are used."""
        assert self._site is not None
        await self._site.stop()
        self._site = None

    async def accept(self) -> None:
        """Accept them again, at the same address."""
        assert self._site is None
        assert self._runner is not None
        host, port = self._address
        self._site = web.SockSite(self._runner, bound(port, host=host))
        await self._site.start()

    # What is to be known

    @property
    def models(self) -> list[str]:
        """What is on its disk."""
        return [card.name for card in self._backend.installed()]

    @property
    def blobs(self) -> Mapping[str, bytes]:
        """The files it was given, by digest."""
        return self._shelf.blobs

    @property
    def load_count(self) -> int:
        return self._backend.load_count

    @property
    def loaded(self) -> list[LoadedCard]:
        return list(self._backend.loaded())

    @property
    def machine(self) -> Machine:
        """The model of the machine, with its counters and faults; read and set attributes only."""
        assert isinstance(self._backend, MachineBackend), "it was given none"
        return self._backend.machine

    @property
    def reload_count(self) -> int:
        """Models that went because a request had other runner options."""
        return self.machine.reload_count

    @property
    def waited_inside_count(self) -> int:
        """Requests that ever waited inside: for a load, a slot, or another load."""
        return self.machine.waited_inside_count

    @property
    def busy_peaks(self) -> Mapping[str, int]:
        """The most slots in use at once, by model."""
        return self.machine.busy_peaks

    @property
    def busy_count(self) -> int:
        """Slots in use now."""
        assert isinstance(self._backend, MachineBackend)
        return self._backend.busy_count

    def asked(self, path: str) -> list[Recorded]:
        return [request for request in self.requests if request.path == path]

    # Serving

    async def serve(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        app = application(self._backend, self._shelf)
        app.middlewares.insert(0, self._recording)
        app.on_response_prepare.append(_remember_response)
        app.router.add_get("/fake", self._counters)
        # A handler is cancelled when its caller hangs up, streamed or not.
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        self._open.push_async_callback(self._runner.cleanup)
        self._open.callback(self._backend.close)
        self._open.callback(self._shelf.close)
        reserved = self._open.enter_context(closing(bound(port, host=host)))  # While it refuses.
        self._address = (host, port_of(reserved))
        await self.accept()
        self.url = f"http://{host}:{self._address[1]}"

    async def close(self) -> None:
        await self._open.aclose()

    async def __aenter__(self) -> Self:
        await self.serve()
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _counters(self, _: web.Request) -> web.Response:
        """For a fake in another process; a machine's counters are zero without one."""
        counters = {"load_count": self.load_count}
        if isinstance(self._backend, MachineBackend):
            counters |= {
                "reload_count": self.reload_count,
                "waited_inside_count": self.waited_inside_count,
                "busy_count": self.busy_count,
                **{f"busy_peak {model}": peak for model, peak in sorted(self.busy_peaks.items())},
            }
        return web.json_response(counters)

    @property
    def _recording(self) -> Callable[..., Awaitable[web.StreamResponse]]:
        @web.middleware
        async def record(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            current_request.set(request)
            if self._site is None:
                await hang_up()
            recorded = Recorded(request.path, await _body(request), request.headers.get("Authorization"))
            self._remember(recorded)
            self._served[id(request)] = request
            try:
                response = await handler(request)
            except asyncio.CancelledError:
                recorded.outcome = Outcome.LEFT
                raise
            else:
                recorded.outcome = Outcome.ANSWERED
                return response
            finally:
                del self._served[id(request)]
                recorded.ended.set()

        return record

    def _remember(self, recorded: Recorded) -> None:
        self.requests.append(recorded)
        if len(self.requests) > REQUESTS_MAX:
            del self.requests[: REQUESTS_MAX // 2]


def _machine_backend(
    models: tuple[ModelCard, ...], machine: MachineSpec, specs: Mapping[str, ModelSpec]
) -> MachineBackend:
    named = {full_name(name): replace(spec, name=full_name(name)) for name, spec in specs.items()}
    cards = models or tuple(
        fake_model(name, "completion", "tools", size_bytes=spec.vram_bytes) for name, spec in named.items()
    )
    assert {card.name for card in cards} <= named.keys(), "every model needs a spec"
    return MachineBackend(cards, machine=machine, specs=named)


async def _remember_response(request: web.Request, response: web.StreamResponse) -> None:
    request[RESPONSE] = response


async def _body(request: web.Request) -> dict[str, object]:
    """Empty for what is no JSON object: the routes under test judge it."""
    if request.path.startswith("/api/blobs/"):
        return {}
    raw = await request.read()
    try:
        return msgspec.json.decode(raw, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError):
        return {}
