"""Composition root: the only module that knows every concrete class."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from ollamesh.inference.v1.inference_service_pb2_grpc import add_InferenceServiceServicer_to_server
from prometheus_client import CollectorRegistry

from services.common.grpc.caller import authentication, deadline
from services.common.grpc.errors import errors
from services.common.grpc.keys import trust
from services.common.grpc.server import Server
from services.common.telemetry import RpcMetrics, serve_metrics, telemetry
from services.inference.adapters.ollama import Ollama
from services.inference.config import Config
from services.inference.core.endpoints import Endpoint
from services.inference.core.estimates import Estimates
from services.inference.core.ledger import Ledger
from services.inference.core.scheduler import Scheduler
from services.inference.engine import Controls, Engine
from services.inference.fleet import Fleet
from services.inference.fleet_metrics import FleetMetrics
from services.inference.gateway import Gateway
from services.inference.servicer import InferenceServicer
from services.inference.telemetry import Metrics

SERVICES = ("ollamesh.inference.v1.InferenceService",)


async def run(
    config: Config, stop: asyncio.Event, *, started: Callable[[int], None] = lambda _: None
) -> None:
    """Serve until `stop`. `started` is told the port."""
    registry = CollectorRegistry()
    async with AsyncExitStack() as opened:  # Closed in reverse, after the tasks that use them.
        verifier = await opened.enter_async_context(trust(config.trust, audience="inference"))
        instances = {
            endpoint.name: await opened.enter_async_context(_ollama(endpoint, config))
            for endpoint in config.endpoints
        }
        fleet = Fleet(instances, slots=config.slots_per_instance, every_s=config.poll_every_s)
        ledger, metrics = Ledger(), Metrics(registry, tenants=config.metrics_tenants)
        scheduler = Scheduler(config.scheduling, Estimates())
        engine = Engine(
            controls=Controls(instances=instances, doubt=fleet.doubt, restart=lambda _name, _reason: False),
            ledger=ledger,
            scheduler=scheduler,
            catalog=config.catalog,
            metrics=metrics,
        )
        fleet_metrics = FleetMetrics(registry, ledger, scheduler)
        gateway = Gateway(
            engine=engine,
            ledger=ledger,
            instances=instances,
            catalog=config.catalog,
            metrics=metrics,
            buffer_bytes_max=config.reader_buffer_bytes_max,
        )
        server = Server(
            config.server,
            [
                telemetry(RpcMetrics(registry)),
                errors("inference.ollamesh"),
                deadline(),
                authentication(verifier),
            ],
        )
        add_InferenceServiceServicer_to_server(InferenceServicer(gateway, config.policies), server.grpc)
        serve_metrics(registry, bind=config.server.bind, port=config.server.metrics_port)

        async def ready() -> bool:
            return ledger.any_ready()

        async with asyncio.TaskGroup() as tasks:  # A bug in any of these ends the process.
            background = [
                tasks.create_task(engine.run(), name="engine"),
                tasks.create_task(fleet_metrics.run(), name="fleet metrics"),
            ]
            background += [
                tasks.create_task(fleet.watch(name, engine.observe), name=f"watch {name}")
                for name in instances
            ]
            await server.serve(stop, services=SERVICES, ready=ready, started=started)
            for task in background:
                task.cancel()


def _ollama(endpoint: Endpoint, config: Config) -> AbstractAsyncContextManager[Ollama]:
    return Ollama.opened(
        endpoint,
        timeouts=config.timeouts,
        connections_max=config.slots_per_instance + 2,  # One to look at it, one to load or probe.
        api_key=config.api_key,
    )
