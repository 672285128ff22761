"""Composition root: the only module that knows every concrete class."""

import asyncio
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from ollamesh.sandbox.v1.sandbox_service_pb2_grpc import add_SandboxServiceServicer_to_server

from services.common.grpc.audit import audit_trail, denials
from services.common.grpc.caller import authentication, deadline
from services.common.grpc.errors import errors
from services.common.grpc.keys import trust
from services.common.grpc.server import Server
from services.common.metrics.process import process_registry
from services.common.metrics.service import service_observed
from services.common.telemetry import RpcMetrics, telemetry
from services.common.tracing.export import tracing
from services.sandbox.catalogue import Catalogue
from services.sandbox.config import Config
from services.sandbox.engine import Engine
from services.sandbox.engines import jails
from services.sandbox.executions import Executions
from services.sandbox.places import Places
from services.sandbox.registry import Registry
from services.sandbox.rpc.capabilities import CapabilityMethods
from services.sandbox.rpc.controls import ControlMethods
from services.sandbox.rpc.executions import ExecutionMethods
from services.sandbox.rpc.files import FileMethods
from services.sandbox.rpc.sessions import SessionMethods
from services.sandbox.runners import AllRunners
from services.sandbox.servicer import SandboxServicer
from services.sandbox.sessions import Sessions
from services.sandbox.sessions_told import SessionsTold
from services.sandbox.telemetry import EngineMetrics, SandboxMetrics, kept_watched, places_watched

SERVICES = ("ollamesh.sandbox.v1.SandboxService",)


async def run(
    config: Config, stop: asyncio.Event, *, started: Callable[[int], None] = lambda _: None
) -> None:
    """Serve until `stop`. `started` is told the port."""
    registry = process_registry()
    async with AsyncExitStack() as opened:  # Closed in reverse, after the tasks that use them.
        tracer = await opened.enter_async_context(
            tracing(config.server.tracing, "sandbox", registry, version=config.server.version)
        )
        verifier = await opened.enter_async_context(
            trust(config.trust, inside=config.server.inside, audience="sandbox", registry=registry)
        )
        trail = await opened.enter_async_context(
            audit_trail(config.audit, config.trust, "sandbox", registry, inside=config.server.inside)
        )
        metrics = SandboxMetrics(registry)
        catalogue = Catalogue([*jails(config)])
        metrics.up.set_function(lambda: catalogue.problem is None)
        registry.register(EngineMetrics(catalogue.every))
        places = Places(config.bounds)
        engine = Engine(catalogue, places, metrics)
        told = SessionsTold(registry, trail)
        sessions = Sessions(catalogue, config.sessions, reserve=places.reserve, told=told)
        told.count_by(lambda: sessions.count)
        server = Server(
            config.server,
            [telemetry(RpcMetrics(registry), tracer), errors("sandbox.ollamesh", denials(trail))],
            [deadline(), authentication(verifier, insecure_inside=config.server.insecure_inside)],
        )
        executions = Executions(
            runners=AllRunners(engine, catalogue, sessions),
            metrics=metrics,
            registry=Registry(config.keeping),
            caps=config.caps,
            trail=trail,
            result_bounds=config.result_bounds,
        )
        places_watched(registry, engine.places)
        kept_watched(registry, executions.registry.shelf)
        servicer = SandboxServicer(
            ExecutionMethods(executions),
            ControlMethods(executions),
            SessionMethods(sessions, config.session_caps),
            FileMethods(sessions, told, file_bytes_max=config.file_bytes_max),
            _capabilities(config, catalogue),
        )
        add_SandboxServiceServicer_to_server(servicer, server.grpc)
        folders = {"temporary": Path(tempfile.gettempdir())}
        observed = service_observed(
            registry, config.server, server, spool=config.audit.spool, folders=folders
        )
        opened.enter_context(observed)

        async def ready() -> bool:
            return catalogue.problem is None

        async with asyncio.TaskGroup() as tasks:  # A bug in any of these ends the process.
            running = [
                tasks.create_task(part.run(), name=name)
                for name, part in (("engine", engine), ("sessions", sessions))
            ]
            await server.serve(stop, services=SERVICES, ready=ready, started=started, drained=engine.drain)
            for part in running:
                part.cancel()


def _capabilities(config: Config, catalogue: Catalogue) -> CapabilityMethods:
    return CapabilityMethods(
        catalogue,
        config.caps,
        session_count_max=config.sessions.per_user_max,
        file_bytes_max=config.file_bytes_max,
    )
