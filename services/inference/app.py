"""Composition root: the only module that knows every concrete class."""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from ollamesh.inference.v1.inference_service_pb2_grpc import add_InferenceServiceServicer_to_server
from prometheus_client import CollectorRegistry

from services.common.grpc.caller import Verifier, authentication, deadline
from services.common.grpc.errors import errors
from services.common.grpc.keys import trust
from services.common.grpc.server import Server
from services.common.loop_lag import loop_watched
from services.common.telemetry import RpcMetrics, serve_metrics, telemetry
from services.inference.adapters.gpus import Gpus
from services.inference.adapters.ollama import Ollama
from services.inference.adapters.recorder import Recorder
from services.inference.adapters.served import Owned
from services.inference.config import Config
from services.inference.core.endpoints import Endpoint
from services.inference.core.estimates import Estimates
from services.inference.core.gpus import alone_here
from services.inference.core.ledger import InstanceView, Ledger
from services.inference.core.recording import RecordingScheduler, keyed
from services.inference.core.scheduler import Scheduler
from services.inference.engine import Controls, Engine
from services.inference.fleet import Fleet
from services.inference.fleet_metrics import FleetMetrics
from services.inference.fleet_watch import FleetWatch
from services.inference.gateway import Gateway
from services.inference.hardware import Hardware
from services.inference.learned import estimates, save_now_and_then
from services.inference.servicer import InferenceServicer
from services.inference.telemetry import Metrics
from services.inference.wire import listings

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
        owned = Owned(config.servings, binary=config.ollama_binary, policy=config.owned, changed=fleet.doubt)
        gpus = Gpus(every_s=config.poll_every_s)
        hardware = _hardware(config, gpus, owned)
        ledger, metrics = Ledger(), Metrics(registry, tenants=config.metrics_tenants)
        learned, hints = await opened.enter_async_context(estimates(config.redis_url))
        recorder = _recorder(config, opened)
        scheduler = _scheduler(config, learned, recorder)
        engine = Engine(
            controls=Controls(instances=instances, doubt=fleet.doubt, restart=owned.restart),
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
        fleet_watch = FleetWatch(lambda: listings.fleet(gateway.fleet()))
        server = _server(config, registry, verifier)
        servicer = InferenceServicer(gateway, config.policies, fleet_watch)
        add_InferenceServiceServicer_to_server(servicer, server.grpc)
        opened.enter_context(loop_watched(registry))
        serve_metrics(registry, bind=config.server.bind, port=config.server.metrics_port)

        async def ready() -> bool:
            return ledger.any_ready()

        def observe(view: InstanceView) -> None:
            engine.observe(hardware.complete(view))

        async with asyncio.TaskGroup() as tasks:  # A bug in any of these ends the process.
            background = [
                tasks.create_task(engine.run(), name="engine"),
                tasks.create_task(fleet_metrics.run(), name="fleet metrics"),
                tasks.create_task(owned.run(), name="owned instances"),
                tasks.create_task(gpus.run(), name="gpus"),
                tasks.create_task(fleet_watch.run(stop), name="fleet watch"),
            ]
            background += [
                tasks.create_task(fleet.watch(name, observe), name=f"watch {name}") for name in instances
            ]
            if hints is not None:
                background.append(tasks.create_task(save_now_and_then(learned, hints), name="learned"))
            if recorder is not None:
                background.append(tasks.create_task(recorder.run(), name="recorder"))
            await server.serve(stop, services=SERVICES, ready=ready, started=started)
            for task in background:
                task.cancel()


def _server(config: Config, registry: CollectorRegistry, verifier: Verifier) -> Server:
    return Server(
        config.server,
        [telemetry(RpcMetrics(registry)), errors("inference.ollamesh")],
        [deadline(), authentication(verifier)],
    )


def _hardware(config: Config, gpus: Gpus, owned: Owned) -> Hardware:
    held = {serving.name: serving.gpu for serving in config.servings}
    return Hardware(
        gpus=gpus.latest,
        held=held,
        alone=alone_here(config.endpoints, held),
        vram_bytes=config.vram_bytes_per_instance,
        trouble=owned.trouble,
    )


def _recorder(config: Config, opened: AsyncExitStack) -> Recorder | None:
    if config.record_file is None:
        return None
    return opened.enter_context(Recorder.opened(config.record_file, bytes_max=config.record_bytes_max))


def _scheduler(config: Config, learned: Estimates, recorder: Recorder | None) -> Scheduler:
    if recorder is None:
        return Scheduler(config.scheduling, learned)
    alias = keyed(secrets.token_bytes(16))  # Forgotten with the process: names cannot be tried out.
    return RecordingScheduler(config.scheduling, learned, write=recorder.write, alias=alias)


def _ollama(endpoint: Endpoint, config: Config) -> AbstractAsyncContextManager[Ollama]:
    return Ollama.opened(
        endpoint,
        timeouts=config.timeouts,
        connections_max=config.slots_per_instance + 2,  # One to look at it, one to load or probe.
        api_key=config.api_key,
    )
