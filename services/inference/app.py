"""Composition root: the only module that knows every concrete class."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import structlog
from ollamesh.inference.v1 import fleet_pb2 as pb
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
from services.inference.answer_cache import AnswerCache
from services.inference.cache_parts import caches, shared_redis
from services.inference.config import Config
from services.inference.core.endpoints import Endpoint
from services.inference.core.estimates import Estimates
from services.inference.core.gpus import alone_here
from services.inference.core.ledger import InstanceView, Ledger
from services.inference.core.recording import RecordingScheduler, keyed
from services.inference.core.scheduler import Scheduler
from services.inference.desk import Desk, NearDesk
from services.inference.embeddings import Embeddings
from services.inference.engine import Controls, Engine
from services.inference.fleet import Fleet
from services.inference.fleet_metrics import FleetMetrics
from services.inference.fleet_watch import FleetWatch
from services.inference.gateway import Gateway
from services.inference.hardware import Hardware
from services.inference.learned import estimates, save_now_and_then
from services.inference.micro_batches import MicroBatches
from services.inference.processes.counts import AllCounts, families, registry_of
from services.inference.processes.head import head_at
from services.inference.processes.staff import Staff
from services.inference.servicer import InferenceServicer
from services.inference.telemetry import Metrics
from services.inference.wire import listings

SERVICES = ("ollamesh.inference.v1.InferenceService",)
Background = tuple[str, Callable[[], Coroutine[None, None, None]]]
DRAIN_MARGIN_S = 5.0  # For what a worker does beside draining when it ends.


async def run(
    config: Config, stop: asyncio.Event, *, started: Callable[[int], None] = lambda _: None
) -> None:
    """Serve until `stop`. `started` is told the (first) port."""
    serve = _run_alone if len(config.ports) == 1 else _run_head
    await serve(config, stop, started)


async def _run_alone(config: Config, stop: asyncio.Event, started: Callable[[int], None]) -> None:
    """One process that does everything."""
    registry, ledger = CollectorRegistry(), Ledger()
    async with AsyncExitStack() as opened:  # Closed in reverse, after the tasks that use them.
        verifier = await opened.enter_async_context(trust(config.trust, audience="inference"))
        truth = await opened.enter_async_context(_deciding(config, registry, ledger))
        desk = NearDesk(truth.engine, truth.instances)
        memory = await _memory(config, registry, desk, opened)
        gateway = Gateway(
            engine=desk,
            ledger=ledger,
            instances=truth.instances,
            catalog=config.catalog,
            metrics=truth.metrics,
            buffer_bytes_max=config.reader_buffer_bytes_max,
            embeddings=memory.embeddings,
            cache=memory.cache,
        )
        fleet_watch = FleetWatch(_look(gateway))
        server = _server(config, registry, verifier, gateway, fleet_watch)
        serve_metrics(registry, bind=config.server.bind, port=config.server.metrics_port)

        async def ready() -> bool:
            return ledger.any_ready()

        async with asyncio.TaskGroup() as tasks:  # A bug in any of these ends the process.
            background = [
                tasks.create_task(run(), name=name) for name, run in (*truth.background, *memory.background)
            ]
            background.append(tasks.create_task(fleet_watch.run(stop), name="fleet watch"))
            await server.serve(stop, services=SERVICES, ready=ready, started=started)
            for task in background:
                task.cancel()


async def _run_head(config: Config, stop: asyncio.Event, started: Callable[[int], None]) -> None:
    """The process that decides, of several; the others carry the streams."""
    registry = CollectorRegistry()
    counts, ledger = AllCounts(registry), Ledger()
    async with _deciding(config, registry, ledger) as truth:
        staff = Staff(
            truth.engine,
            ledger,
            counts,
            instances=tuple(truth.instances),
            count=len(config.ports),
            variables=config.worker_variables,
        )
        ledger.tells(staff.tell)
        serve_metrics(registry_of(counts), bind=config.server.bind, port=config.server.metrics_port)
        async with asyncio.TaskGroup() as tasks:  # As above.
            background = [tasks.create_task(run(), name=name) for name, run in truth.background]
            drain_s = config.server.lame_duck_s + config.server.grace_s + DRAIN_MARGIN_S
            await staff.run(stop, drain_s=drain_s, started=started)
            for task in background:
                task.cancel()


async def run_worker(
    config: Config, stop: asyncio.Event, *, started: Callable[[int], None], link: int, place: int
) -> None:
    """One of the processes that carry the streams. `link` is the descriptor of the head's other end."""
    structlog.contextvars.bind_contextvars(worker=place)
    registry, ledger = CollectorRegistry(), Ledger()
    metrics = Metrics(registry, tenants=config.metrics_tenants)
    config = replace(config, server=replace(config.server, port=config.ports[place]))
    async with AsyncExitStack() as opened:
        opened.enter_context(loop_watched(registry))
        verifier = await opened.enter_async_context(trust(config.trust, audience="inference"))
        instances = await _instances(config, opened)
        head = await opened.enter_async_context(
            head_at(
                link,
                instances,
                ledger,
                stop=stop,
                counted=lambda: families(registry),
                refused=metrics.refused,
            )
        )
        memory = await _memory(config, registry, head.engine, opened)
        gateway = Gateway(
            engine=head.engine,
            ledger=ledger,
            instances=instances,
            catalog=config.catalog,
            metrics=metrics,
            buffer_bytes_max=config.reader_buffer_bytes_max,
            embeddings=memory.embeddings,
            cache=memory.cache,
        )
        fleet_watch = FleetWatch(_look(gateway))
        server = _server(config, registry, verifier, gateway, fleet_watch)

        async def ready() -> bool:
            return head.engine.ready

        def serving(port: int) -> None:
            head.serving(port)
            started(port)

        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(head.run(), name="head"),
                *(tasks.create_task(run(), name=name) for name, run in memory.background),
                tasks.create_task(fleet_watch.run(stop), name="fleet watch"),
            ]
            await server.serve(stop, services=SERVICES, ready=ready, started=serving)
            for task in background:
                task.cancel()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Truth:
    """What decides, and what must run for it."""

    engine: Engine
    instances: Mapping[str, Ollama]
    metrics: Metrics
    background: list[Background]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Memory:
    """What remembers answers and gathers texts, in each process that carries streams, and what must run for it."""

    embeddings: Embeddings
    cache: AnswerCache | None
    background: list[Background]


async def _memory(config: Config, registry: CollectorRegistry, desk: Desk, opened: AsyncExitStack) -> _Memory:
    link = await opened.enter_async_context(shared_redis(config, registry))
    found = caches(config, link, registry)
    micro = config.micro_batches
    batches = MicroBatches(desk, delay_s=micro.delay_s, texts_max=micro.texts_max)
    background: list[Background] = [("micro-batches", batches.run)]
    if link is not None:
        background.append(("redis", link.run))
    if found is not None:
        background.append(("cache", found.keeper.run))
    return _Memory(
        embeddings=Embeddings(batches, found.vectors if found else None),
        cache=found.answers if found else None,
        background=background,
    )


@asynccontextmanager
async def _deciding(config: Config, registry: CollectorRegistry, ledger: Ledger) -> AsyncIterator[_Truth]:
    """All that there can be only one of: the scheduler, and who looks after the instances."""
    async with AsyncExitStack() as opened:
        opened.enter_context(loop_watched(registry))
        instances = await _instances(config, opened)
        fleet = Fleet(instances, slots=config.slots_per_instance, every_s=config.poll_every_s)
        owned = Owned(config.servings, binary=config.ollama_binary, policy=config.owned, changed=fleet.doubt)
        gpus = Gpus(every_s=config.poll_every_s)
        hardware = _hardware(config, gpus, owned)
        metrics = Metrics(registry, tenants=config.metrics_tenants)
        learned, hints = await opened.enter_async_context(
            estimates(config.shared.redis_url if config.shared else None)
        )
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

        def observe(view: InstanceView) -> None:
            engine.observe(hardware.complete(view))

        background: list[Background] = [
            ("engine", engine.run),
            ("fleet metrics", fleet_metrics.run),
            ("owned instances", owned.run),
            ("gpus", gpus.run),
            *((f"watch {name}", partial(fleet.watch, name, observe)) for name in instances),
        ]
        if hints is not None:
            background.append(("learned", partial(save_now_and_then, learned, hints)))
        if recorder is not None:
            background.append(("recorder", recorder.run))
        yield _Truth(engine=engine, instances=instances, metrics=metrics, background=background)


async def _instances(config: Config, opened: AsyncExitStack) -> Mapping[str, Ollama]:
    return {
        endpoint.name: await opened.enter_async_context(_ollama(endpoint, config))
        for endpoint in config.endpoints
    }


def _look(gateway: Gateway) -> Callable[[], Awaitable[pb.Fleet]]:
    async def look() -> pb.Fleet:
        return listings.fleet(await gateway.fleet())

    return look


def _server(
    config: Config,
    registry: CollectorRegistry,
    verifier: Verifier,
    gateway: Gateway,
    fleet_watch: FleetWatch,
) -> Server:
    server = Server(
        config.server,
        [telemetry(RpcMetrics(registry)), errors("inference.ollamesh")],
        [deadline(), authentication(verifier)],
    )
    servicer = InferenceServicer(gateway, config.policies, fleet_watch)
    add_InferenceServiceServicer_to_server(servicer, server.grpc)
    return server


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
