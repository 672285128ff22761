"""The RPCs of executions over a real socket, on jails that do as they are told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
from ollamesh.sandbox.v1 import execution_pb2, sandbox_service_pb2
from ollamesh.sandbox.v1.sandbox_service_pb2_grpc import (
    SandboxServiceStub,
    add_SandboxServiceServicer_to_server,
)
from prometheus_client import CollectorRegistry

from services.common.grpc.around import Interceptor
from services.common.grpc.caller import deadline
from services.common.grpc.errors import errors
from services.common.telemetry import RpcMetrics, telemetry
from services.common.tracing.tracer import Tracer
from services.sandbox.catalogue import Catalogue
from services.sandbox.core.admission import Bounds
from services.sandbox.core.keeping import Keeping
from services.sandbox.core.limits import Caps, Limits
from services.sandbox.engine import Engine
from services.sandbox.executions import Executions
from services.sandbox.limits_config import ROLES, RoleCaps
from services.sandbox.places import Places
from services.sandbox.registry import Registry
from services.sandbox.rpc.controls import ControlMethods
from services.sandbox.rpc.executions import ExecutionMethods
from services.sandbox.rpc.sessions import SessionMethods
from services.sandbox.runners import AllRunners
from services.sandbox.servicer import SandboxServicer
from services.sandbox.sessions import Sessions, SessionSettings
from services.sandbox.sessions_told import SessionsTold
from services.sandbox.telemetry import SandboxMetrics, kept_watched, places_watched
from tests.fakes.fake_jails import FakeJails
from tests.fakes.trail import KeptTrail
from tests.service.sandbox_rpcs import TIMEOUT_S, recognise

USUAL = Limits(output_bytes=1000)
Events = list[execution_pb2.ExecutionEvent]


@dataclass
class World:
    engine: Engine
    executions: Executions
    jails: FakeJails
    trail: KeptTrail
    metrics: CollectorRegistry
    channel: grpc.aio.Channel

    def measured(self, name: str, **labels: str) -> float:
        return self.metrics.get_sample_value(f"ollamesh_sandbox_{name}", labels) or 0.0

    def call(self, method: str, request: Any, who: str = "ada@o", timeout_s: float = TIMEOUT_S) -> Any:
        stub: Any = SandboxServiceStub(self.channel)
        return getattr(stub, method)(request, timeout=timeout_s, metadata=(("who", who),))

    def execute(self, code: str = "1", who: str = "ada@o", timeout_s: float = TIMEOUT_S, **spec: Any) -> Any:
        """A call of Execute."""
        request = sandbox_service_pb2.ExecuteRequest(spec=execution_pb2.ExecutionSpec(code=code, **spec))
        return self.call("Execute", request, who, timeout_s)

    async def start(
        self, execution_id: str, code: str = "1", who: str = "ada@o", **spec: Any
    ) -> execution_pb2.Execution:
        request = sandbox_service_pb2.StartExecutionRequest(
            execution_id=execution_id, spec=execution_pb2.ExecutionSpec(code=code, **spec)
        )
        found: execution_pb2.Execution = (await self.call("StartExecution", request, who)).execution
        return found

    async def get(self, execution_id: str, who: str = "ada@o") -> execution_pb2.Execution:
        request = sandbox_service_pb2.GetExecutionRequest(execution_id=execution_id)
        found: execution_pb2.Execution = (await self.call("GetExecution", request, who)).execution
        return found

    def watch(self, execution_id: str, who: str = "ada@o", **seen: int) -> Any:
        """A call of WatchExecution."""
        request = sandbox_service_pb2.WatchExecutionRequest(execution_id=execution_id, **seen)
        return self.call("WatchExecution", request, who)

    async def watched(self, execution_id: str, who: str = "ada@o", **seen: int) -> Events:
        return await events(self.watch(execution_id, who, **seen))

    async def send(self, execution_id: str, offset: int, data: bytes, *, end: bool = False) -> int:
        request = sandbox_service_pb2.SendInputRequest(
            execution_id=execution_id, offset=offset, data=data, end=end
        )
        next_offset: int = (await self.call("SendInput", request)).next_offset
        return next_offset

    async def kill(self, execution_id: str) -> execution_pb2.Execution:
        request = sandbox_service_pb2.KillExecutionRequest(execution_id=execution_id)
        found: execution_pb2.Execution = (await self.call("KillExecution", request)).execution
        return found


async def events(call: Any) -> Events:
    return [response.event async for response in call]


def kinds(told: Events) -> list[str | None]:
    return [event.WhichOneof("event") for event in told]


async def ended(world: World, execution_id: str) -> execution_pb2.ExecutionEvent.Exited:
    return (await world.watched(execution_id))[-1].exited


@asynccontextmanager
async def serving(
    *,
    running_max: int = 4,
    waiting_max: int = 4,
    user_executions_max: int = 8,
    keeping: Keeping = Keeping(),  # noqa: B008
    tracer: Tracer | None = None,
) -> AsyncIterator[World]:
    jails, trail, metrics = FakeJails(), KeptTrail(), CollectorRegistry()
    bounds = Bounds(
        memory_bytes=1 << 40,
        session_memory_bytes=1 << 39,
        running_max=running_max,
        waiting_max=waiting_max,
        user_executions_max=user_executions_max,
    )
    catalogue, measured = Catalogue([jails]), SandboxMetrics(metrics)
    engine = Engine(catalogue, Places(bounds), measured)
    told = SessionsTold(metrics, trail)
    sessions = Sessions(catalogue, SessionSettings(), reserve=engine.places.reserve, told=told)
    executions = Executions(
        runners=AllRunners(engine, catalogue, sessions),
        metrics=measured,
        registry=Registry(keeping),
        caps=RoleCaps(USUAL, dict.fromkeys(ROLES, Caps(usual=USUAL, most=USUAL))),
        trail=trail,
    )
    places_watched(metrics, engine.places)
    kept_watched(metrics, executions.registry.shelf)
    server = grpc.aio.server(
        interceptors=[
            Interceptor(
                [telemetry(RpcMetrics(CollectorRegistry()), tracer), errors("sandbox.ollamesh")],
                [deadline(), recognise],
            )
        ]
    )
    servicer = SandboxServicer(
        ExecutionMethods(executions), ControlMethods(executions), SessionMethods(sessions, executions.caps)
    )
    add_SandboxServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    tasks = [asyncio.create_task(part.run()) for part in (engine, sessions)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        async with asyncio.timeout(2 * TIMEOUT_S):
            yield World(engine, executions, jails, trail, metrics, channel)
    await server.stop(None)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
