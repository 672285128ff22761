"""Composition root: which processes there are, and what runs in each (deciding.py, carrying.py)."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import replace

import structlog
from prometheus_client import CollectorRegistry, Gauge

from services.common.loop_lag import loop_watched
from services.common.metrics.endpoint import metrics_served
from services.common.metrics.process import process_registry
from services.common.metrics.service import service_watched
from services.inference.carrying import FleetParts, carrying, outside_of
from services.inference.config import Config
from services.inference.core.ledger import Ledger
from services.inference.deciding import Background, deciding, opened_instances
from services.inference.desk import NearDesk
from services.inference.processes.counts import AllCounts, families, registry_of
from services.inference.processes.head import head_at
from services.inference.processes.staff import Staff
from services.inference.rest import serving as rest
from services.inference.telemetry import Metrics

log = structlog.get_logger(__name__)

SERVICES = (
    "ollamesh.inference.v1.InferenceService",
    "ollamesh.inference.v1.HealthService",
    *rest.SERVICES,
)
DRAIN_MARGIN_S = 5.0  # For what a worker does beside draining when it ends.


async def run(
    config: Config, stop: asyncio.Event, *, started: Callable[[int], None] = lambda _: None
) -> None:
    """Serve until `stop`. `started` is told the (first) port."""
    if config.database is None:
        log.warning("no_database", means="usage is not accounted", mend="set DATABASE_URL")
    serve = _run_alone if len(config.ports) == 1 else _run_head
    await serve(config, stop, started)


async def _run_alone(config: Config, stop: asyncio.Event, started: Callable[[int], None]) -> None:
    """One process that does everything."""
    registry, ledger = process_registry(), Ledger()
    async with AsyncExitStack() as opened:  # Closed in reverse, after the tasks that use them.
        # Before what records and shares, so that it closes after that.
        outside = await opened.enter_async_context(outside_of(config, registry))
        truth = await opened.enter_async_context(deciding(config, registry, ledger))
        fleet = FleetParts(
            desk=NearDesk(truth.engine, truth.instances),
            ledger=ledger,
            instances=truth.instances,
            keeper=truth.engine.keeper,
            metrics=truth.metrics,
        )
        carried = await opened.enter_async_context(carrying(config, registry, fleet, outside, stop))
        opened.enter_context(_published(config, registry, registry, process_count=lambda: 1))

        async def ready() -> bool:
            return ledger.any_ready()

        async with asyncio.TaskGroup() as tasks:  # A bug in any of these ends the process.
            background = _begun(tasks, [*truth.background, *outside.background, *carried.background])
            await carried.server.serve(stop, services=SERVICES, ready=ready, started=started)
            for task in background:
                task.cancel()


async def _run_head(config: Config, stop: asyncio.Event, started: Callable[[int], None]) -> None:
    """The process that decides, of several; the others carry the streams."""
    registry = process_registry()
    counts, ledger = AllCounts(registry), Ledger()
    async with deciding(config, registry, ledger) as truth:
        staff = Staff(
            truth.engine,
            ledger,
            counts,
            instances=tuple(truth.instances),
            count=len(config.ports),
            variables=config.worker_variables,
        )
        ledger.tells(staff.tell)
        every, process_count = registry_of(counts), lambda: counts.process_count
        with _published(config, registry, every, process_count=process_count):
            async with asyncio.TaskGroup() as tasks:  # As above.
                background = _begun(tasks, truth.background)
                drain_s = config.server.lame_duck_s + config.server.grace_s + DRAIN_MARGIN_S
                await staff.run(stop, drain_s=drain_s, started=started)
                for task in background:
                    task.cancel()


async def run_worker(
    config: Config, stop: asyncio.Event, *, started: Callable[[int], None], link: int, place: int
) -> None:
    """One of the processes that carry the streams. `link` is the descriptor of the head's other end."""
    structlog.contextvars.bind_contextvars(worker=place)
    registry, ledger = process_registry(), Ledger()
    metrics = Metrics(registry, tenants=config.metrics_tenants)
    config = replace(config, server=replace(config.server, port=config.ports[place]))
    async with AsyncExitStack() as opened:
        opened.enter_context(loop_watched(registry))
        outside = await opened.enter_async_context(outside_of(config, registry))
        instances = await opened_instances(config, opened)
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
        fleet = FleetParts(
            desk=head.engine,
            ledger=ledger,
            instances=instances,
            keeper=head.engine.keeper,
            metrics=metrics,
        )
        carried = await opened.enter_async_context(carrying(config, registry, fleet, outside, stop))

        async def ready() -> bool:
            return head.engine.ready

        def serving(port: int) -> None:
            head.serving(port)
            started(port)

        async with asyncio.TaskGroup() as tasks:
            background = _begun(tasks, [("head", head.run), *outside.background, *carried.background])
            await carried.server.serve(stop, services=SERVICES, ready=ready, started=serving)
            for task in background:
                task.cancel()


def _begun(tasks: asyncio.TaskGroup, background: Sequence[Background]) -> list[asyncio.Task[None]]:
    return [tasks.create_task(run(), name=name) for name, run in background]


def _published(
    config: Config,
    own: CollectorRegistry,
    every: CollectorRegistry,
    *,
    process_count: Callable[[], int],
) -> AbstractContextManager[int]:
    """What is true of the service as a whole is measured by its `own` process; `every` is what is shown."""
    service_watched(own, config.server, spool=config.audit.spool)
    Gauge("ollamesh_processes", "Processes that carry streams and are there", registry=own).set_function(
        process_count
    )
    return metrics_served(every, bind=config.server.bind, port=config.server.metrics_port)
