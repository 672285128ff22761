"""The inference service, whole, behind a real socket, with real tokens.

With OLLAMESH_TEST_PROCESSES=2 it is that many processes, of which a test talks to the first: what holds of one process
must hold of several. Tests that reach into the service's objects cannot pass then.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import grpc
import grpc.aio
import httpx
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from ollamesh.inference.v1 import completion_pb2 as pb
from ollamesh.inference.v1.fleet_pb2 import INSTANCE_STATE_READY, Fleet, GetFleetRequest
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub

from deploy.local.runtime.ports import ModelCard
from services.common.config import Environment
from services.common.grpc.client import bearer
from services.common.policy import FOUNDING_ORGANIZATION, POLICY, Access
from services.inference.app import run
from services.inference.config import Config
from services.inference.simulation.parts import MachineSpec, ModelSpec
from tests.fakes.fake_ollama import FakeOllama, Outcome, Recorded, fake_model
from tests.fakes.identity import Identity

PROCESSES = int(os.environ.get("OLLAMESH_TEST_PROCESSES", "1"))
TIMEOUT_S = 60.0
WITHIN_S = 20.0  # Longest wait for what must happen soon.
TINY = fake_model("tiny:latest", "completion", "tools", "thinking", "embedding")
GIB = 2**30
# What models cost on a machine that keeps time. Of two, one fits.
BRISK = ModelSpec(
    name="tiny:latest",
    vram_bytes=6 * GIB,
    load_s=0.05,
    prefill_tokens_per_s=20_000,
    token_s=0.002,
    batch_cost=0.2,
)
OTHER = replace(BRISK, name="other:latest")
Call = grpc.aio.UnaryStreamCall[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A running service, and a caller of it."""

    channel: grpc.aio.Channel
    identity: Identity
    stop: asyncio.Event
    target: str = ""  # Where it listens.

    @property
    def stub(self) -> InferenceServiceStub:
        return InferenceServiceStub(self.channel)

    def call(
        self,
        method: str,
        request: object,
        *,
        timeout_s: float = TIMEOUT_S,
        org: str | None = None,
        **who: Any,
    ) -> Any:
        """Start a call as a user of `org`, by default one who may. `who` is more for Identity.token."""
        start = getattr(self.stub, method)
        if org is None:
            operates = POLICY[f"/ollamesh.inference.v1.InferenceService/{method}"].access is Access.OPERATOR
            org = FOUNDING_ORGANIZATION if operates else "org-1"
        return start(request, timeout=timeout_s, metadata=bearer(self.identity.token(org=org, **who)))

    def chat(
        self, text: str = "hello", *, timeout_s: float = TIMEOUT_S, org: str = "org-1", **more: Any
    ) -> Call:
        """Start a Chat."""
        messages = [pb.Message(role=pb.ROLE_USER, content=text)]
        request = pb.ChatRequest(**{"model": "tiny", "messages": messages, **more})
        call: Call = self.call("Chat", request, timeout_s=timeout_s, org=org)
        return call

    async def fleet(self) -> Fleet:
        response = await self.call("GetFleet", GetFleetRequest())
        assert isinstance(response.fleet, Fleet)
        return response.fleet

    async def until_fleet(self, holds: Callable[[Fleet], bool]) -> Fleet:
        """Return the first state of the fleet for which `holds`."""
        async with asyncio.timeout(WITHIN_S):
            while not holds(fleet := await self.fleet()):
                await asyncio.sleep(0.005)
        return fleet

    async def until_ready(self, count: int) -> None:
        """Return when so many instances are ready."""

        def ready(fleet: Fleet) -> bool:
            return sum(one.state == INSTANCE_STATE_READY for one in fleet.instances) == count

        await self.until_fleet(ready)

    async def until_idle(self) -> None:
        """Return when no slot is busy and nobody waits."""
        await self.until_fleet(
            lambda fleet: not fleet.queues and not any(one.busy_slot_count for one in fleet.instances)
        )


def serving(*urls: str, **settings: object) -> AbstractAsyncContextManager[Service]:
    """Run the service over instances. `settings` are knobs; in lower case, without their OLLAMESH_ prefix."""
    return serving_for(Identity(), *urls, **settings)


@asynccontextmanager
async def serving_for(identity: Identity, *urls: str, **settings: object) -> AsyncIterator[Service]:
    """Likewise, for the callers of an identity."""
    stop = asyncio.Event()
    async with identity.served() as auth_target, AsyncExitStack() as opened:
        usual = {
            "OLLAMA_HOSTS": ",".join(urls),
            "OLLAMESH_INSECURE_INSIDE": "true",
            "OLLAMESH_AUTH_TARGET": auth_target,
            "OLLAMESH_INFERENCE_PORT": "0",
            "OLLAMESH_INFERENCE_METRICS_PORT": "0",
            "OLLAMESH_LAME_DUCK_S": "0",
            "OLLAMESH_GRACE_S": "0.5",
            "OLLAMESH_POLL_EVERY_S": "0.02",
        }
        given = {
            name if name.isupper() else f"OLLAMESH_{name.upper()}": str(value)
            for name, value in settings.items()
        }
        if PROCESSES > 1:
            usual["OLLAMESH_INFERENCE_PROCESSES"] = str(PROCESSES)
        env = Environment({**usual, **given})
        config = Config.read(env)
        env.check()
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        opened.enter_context(mock.patch.dict(os.environ, {**usual, **given}))  # Where workers read theirs.
        running = asyncio.create_task(run(config, stop, started=port.set_result))
        running.add_done_callback(lambda _: port.cancel())  # Rather than wait for a port that never comes.
        try:
            target = f"127.0.0.1:{await port}"
            async with grpc.aio.insecure_channel(target) as channel:
                service = Service(channel=channel, identity=identity, stop=stop, target=target)
                await service.until_ready(len(urls))
                yield service
        finally:
            stop.set()
            await running


@asynccontextmanager
async def one_instance(*models: ModelCard, **settings: object) -> AsyncIterator[tuple[Service, FakeOllama]]:
    """The service over one instance that has `tiny:latest`, or `models`, in memory."""
    async with FakeOllama(*(models or (TINY,)), parallel=64) as fake:
        options = {"num_ctx": settings["context_tokens"]} if "context_tokens" in settings else {}
        await preload(fake, *(models or (TINY,)), **options)
        async with serving(fake.url, **settings) as service:
            yield service, fake


@asynccontextmanager
async def one_machine(
    *models: ModelSpec, parallel: int = 1, **settings: object
) -> AsyncIterator[tuple[Service, FakeOllama]]:
    """The service over one instance that takes the time that Ollama would, the first model in memory."""
    async with a_machine(*models, parallel=parallel) as fake:
        await preload(fake, models[0])
        async with serving(fake.url, **{"instance_slots": parallel, **settings}) as service:
            yield service, fake


def a_machine(*models: ModelSpec, parallel: int = 1) -> FakeOllama:
    """What can embed as well as chat."""
    cards = [
        fake_model(model.name, "completion", "embedding", size_bytes=model.vram_bytes) for model in models
    ]
    machine = MachineSpec(name="gpu", vram_bytes=10 * GIB, parallel=parallel)
    return FakeOllama(*cards, machine=machine, specs={model.name: model for model in models})


async def preload(fake: FakeOllama, *models: ModelCard | ModelSpec, **options: object) -> None:
    """Have models loaded, and forget that they were asked for."""
    async with httpx.AsyncClient(base_url=fake.url, timeout=WITHIN_S) as http:
        for model in models:
            body = {"model": model.name, "options": options, "stream": False}
            embeds = isinstance(model, ModelCard) and "completion" not in model.capabilities
            path, body = ("/api/embed", body | {"input": []}) if embeds else ("/api/generate", body)
            (await http.post(path, json=body)).raise_for_status()
    fake.requests.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What a failed call said."""

    code: grpc.StatusCode
    reason: str
    message: str
    facts: dict[str, str]
    retry_after_ms: int | None
    fields: list[str]


async def refused(call: Awaitable[object] | Call) -> Refusal:
    """Read a call to its end, which must be a failure."""
    try:
        if isinstance(call, grpc.aio.UnaryStreamCall):
            while await call.read() is not grpc.aio.EOF:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return refusal(error)
    raise AssertionError("it succeeded")


async def until(holds: Callable[[], object]) -> None:
    """Return when `holds`."""
    async with asyncio.timeout(WITHIN_S):
        while not holds():
            await asyncio.sleep(0.005)


async def asked(fake: FakeOllama, count: int = 1, path: str = "/api/chat") -> Recorded:
    """Return the last of so many requests, once it has arrived."""
    await until(lambda: len(fake.asked(path)) >= count)
    return fake.asked(path)[count - 1]


async def left(recorded: Recorded) -> bool:
    """Return, once a request has ended, whether its caller had hung up."""
    await asyncio.wait_for(recorded.ended.wait(), WITHIN_S)
    return recorded.outcome is Outcome.LEFT


def refusal(error: grpc.aio.AioRpcError) -> Refusal:
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    info, retry, bad = ErrorInfo(), RetryInfo(), BadRequest()
    retry_after_ms = None
    for detail in Status.FromString(details if isinstance(details, bytes) else b"").details:
        detail.Unpack(info)
        detail.Unpack(bad)
        if detail.Unpack(retry):
            retry_after_ms = retry.retry_delay.ToMilliseconds()
    assert info.domain in {"", "inference.ollamesh"}
    return Refusal(
        code=error.code(),
        reason=info.reason,
        message=error.details() or "",
        facts=dict(info.metadata),
        retry_after_ms=retry_after_ms,
        fields=sorted({violation.field for violation in bad.field_violations}),
    )


async def events_of(call: Call) -> list[pb.CompletionEvent]:
    """Read a stream to its end."""
    return [response.event async for response in call]


async def next_event(call: Call) -> pb.CompletionEvent:
    async with asyncio.timeout(WITHIN_S):
        response = await call.read()
    assert isinstance(response, pb.ChatResponse | pb.GenerateResponse | pb.ResumeStreamResponse), (
        "the stream goes on"
    )
    return response.event


async def until_event(call: Call, kind: str) -> pb.CompletionEvent:
    """Read up to the next event of a kind."""
    while (event := await next_event(call)).WhichOneof("event") != kind:
        pass
    return event


def grammar(events: list[pb.CompletionEvent]) -> str:
    """Return a stream's events by their initials."""
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    return "".join(str(event.WhichOneof("event"))[0].upper() for event in events)
