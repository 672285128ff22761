"""Callers and readers who retry nothing, while parts are restarted, replaced or rolled back under them."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import grpc.aio
from ollamesh.agent.v1.agent_service_pb2 import ListThreadsRequest, ListThreadsResponse
from ollamesh.auth.v1.auth_service_pb2 import GetCallerRequest, GetCallerResponse
from ollamesh.inference.v1 import completion_pb2 as pb
from ollamesh.inference.v1.model_pb2 import ListModelsRequest, ListModelsResponse
from ollamesh.sandbox.v1.sandbox_service_pb2 import GetCapabilitiesRequest, GetCapabilitiesResponse

from services.common.grpc.client import bearer
from tests.chaos.knobs import ROLLING_CALLS, ROLLING_STREAMS
from tests.chaos.rolling import Mesh
from tests.service import edge_app

TIMEOUT_S = 30.0
STREAM_S = 2.0  # Long enough to be in the middle of when something ends.
PIECES = 10
UNARY = (
    ("/ollamesh.auth.v1.AuthService/GetCaller", GetCallerRequest(), GetCallerResponse),
    ("/ollamesh.inference.v1.InferenceService/ListModels", ListModelsRequest(), ListModelsResponse),
    ("/ollamesh.agent.v1.AgentService/ListThreads", ListThreadsRequest(), ListThreadsResponse),
    (
        "/ollamesh.sandbox.v1.SandboxService/GetCapabilities",
        GetCapabilitiesRequest(),
        GetCapabilitiesResponse,
    ),
)
CHAT = "/ollamesh.inference.v1.InferenceService/Chat"


@dataclass(slots=True)
class Seen:
    """What the callers saw."""

    call_count: int = 0
    stream_count: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def is_enough(self) -> bool:
        return self.call_count >= ROLLING_CALLS and self.stream_count >= ROLLING_STREAMS


class Identity:
    """A token that is renewed before it expires, by the one way that everybody has."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._token = ""

    async def run(self) -> None:
        while True:
            self._token = await self._mesh.stack.token()
            await asyncio.sleep(120)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return bearer(self._token)


async def keep_calling(
    mesh: Mesh, who: Identity, seen: Seen, stop: asyncio.Event, chance: random.Random
) -> None:
    target = f"127.0.0.1:{mesh.stack.port}"
    # A connection of its own: gRPC would share it with other callers of this process.
    async with grpc.aio.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        methods = [
            channel.unary_unary(
                path,
                request_serializer=type(request).SerializeToString,
                response_deserializer=answer.FromString,
            )
            for path, request, answer in UNARY
        ]
        while not stop.is_set():
            number = chance.randrange(len(UNARY))
            try:
                await methods[number](UNARY[number][1], metadata=who.metadata, timeout=TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                seen.failures.append(f"{UNARY[number][0]}: {error.code()} {error.details()}")
            seen.call_count += 1
            await asyncio.sleep(chance.uniform(0, 0.02))


async def keep_reading(
    mesh: Mesh, who: Identity, seen: Seen, stop: asyncio.Event, chance: random.Random
) -> None:
    target = f"127.0.0.1:{mesh.stack.port}"
    async with grpc.aio.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        chat = channel.unary_stream(
            CHAT,
            request_serializer=pb.ChatRequest.SerializeToString,
            response_deserializer=pb.ChatResponse.FromString,
        )
        number = 0
        while not stop.is_set():
            number += 1
            text = f"{id(chance)} {number}"
            mesh.fake.script(*slowly())
            request = pb.ChatRequest(
                model="tiny",
                messages=[pb.Message(role=pb.ROLE_USER, content=text)],
                cache_policy=pb.CACHE_POLICY_NEVER,
            )
            try:
                kinds = [
                    one.event.WhichOneof("event")
                    async for one in chat(request, metadata=who.metadata, timeout=TIMEOUT_S)
                ]
                if kinds[-1] != "finished":
                    seen.failures.append(f"a stream ends with {kinds[-1]}")
            except grpc.aio.AioRpcError as error:
                seen.failures.append(f"a stream: {error.code()} {error.details()}")
            seen.stream_count += 1


def slowly() -> list[str | asyncio.Event]:
    """What the fake is to say, with a pause after each piece."""
    pieces: list[str | asyncio.Event] = []
    for number in range(PIECES):
        pause = asyncio.Event()
        asyncio.get_running_loop().call_later((number + 1) * STREAM_S / PIECES, pause.set)
        pieces += [f"{number} ", pause]
    return pieces


@dataclass(frozen=True, slots=True)
class Load:
    """Of others beside it: who they are, in which group they run, and when they are to stop."""

    seen: Seen
    who: Identity
    tasks: asyncio.TaskGroup
    stop: asyncio.Event


@asynccontextmanager
async def under_load(mesh: Mesh, *, seed: int, callers: int, readers: int) -> AsyncIterator[Load]:
    async with asyncio.TaskGroup() as tasks:
        load = Load(Seen(), Identity(mesh), tasks, asyncio.Event())
        renewing = tasks.create_task(load.who.run())
        token = await mesh.stack.token()
        for path, _, _ in UNARY:
            await edge_app.until_keys_are_known(mesh.stack, path, token)
        for number in range(callers):
            chance = random.Random(f"{seed} {number}")
            tasks.create_task(keep_calling(mesh, load.who, load.seen, load.stop, chance))
        for number in range(readers):
            chance = random.Random(f"{seed} r {number}")
            tasks.create_task(keep_reading(mesh, load.who, load.seen, load.stop, chance))
        try:
            yield load
        finally:
            load.stop.set()
            renewing.cancel()
