"""Composition root: what the service is made of (subjects.py), its server, its life."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from services.auth.backup_metrics import backups_watched
from services.auth.config import Config
from services.auth.revocations import Revocations
from services.auth.subjects import serve_all, shared_by_all
from services.common.grpc.address import addressed
from services.common.grpc.audit import denials
from services.common.grpc.caller import authentication, deadline
from services.common.grpc.dpop import proving
from services.common.grpc.errors import errors
from services.common.grpc.server import Server
from services.common.metrics.process import process_registry
from services.common.metrics.service import service_observed
from services.common.telemetry import RpcMetrics, telemetry
from services.common.tracing.export import tracing

# What issues tokens, and the path by which REST knows it: there a caller may bind his to a key.
TOKEN_METHODS = {
    "/ollamesh.auth.v1.AuthService/Login": None,
    "/ollamesh.auth.v1.AuthService/ExchangeToken": None,
    "/ollamesh.auth.v1.OAuthService/Token": "/oauth/token",
}
SERVICES = ("ollamesh.auth.v1.AuthService", "ollamesh.auth.v1.OAuthService")


async def run(
    config: Config, stop: asyncio.Event, *, started: Callable[[int], None] = lambda _: None
) -> None:
    """Serve until `stop`. `started` is told the port."""
    registry = process_registry()
    async with AsyncExitStack() as opened:  # Closed in reverse, after the tasks that use them.
        tracer = await opened.enter_async_context(
            tracing(config.server.tracing, "auth", registry, version=config.server.version)
        )
        shared = await shared_by_all(config, registry, opened)
        verifier = shared.verifier("auth")
        server = Server(
            config.server,
            [telemetry(RpcMetrics(registry), tracer), errors("auth.ollamesh", denials(shared.trail))],
            [
                deadline(),
                addressed(),
                proving(TOKEN_METHODS),
                authentication(verifier, insecure_inside=config.server.insecure_inside),
            ],
        )
        background = [
            *serve_all(shared, server, verifier),
            ("dismissal", lambda: _dismissed(shared.revocations, stop)),
        ]
        observed = service_observed(registry, config.server, server, spool=config.audit.spool)
        opened.enter_context(observed)
        backups_watched(registry, config.backup_metrics_file)

        async def ready() -> bool:
            return shared.keyring.usable and await shared.store.answers()

        async with asyncio.TaskGroup() as tasks:  # A bug in any of these ends the process.
            running = [tasks.create_task(_run(work), name=name) for name, work in background]
            await server.serve(stop, services=SERVICES, ready=ready, started=started)
            for task in running:
                task.cancel()


async def _dismissed(revocations: Revocations, stop: asyncio.Event) -> None:
    """Streams that never end would hold up the end of the process for all its grace."""
    await stop.wait()
    revocations.dismiss()


async def _run(work: Callable[[], Awaitable[None]]) -> None:
    await work()
