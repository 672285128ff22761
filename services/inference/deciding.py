"""Puts together all that there can be only one of: the scheduler, and who looks after the instances."""

import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from prometheus_client import CollectorRegistry

from services.common.loop_lag import loop_watched
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
from services.inference.hardware import Hardware
from services.inference.hardware_metrics import HardwareMetrics
from services.inference.learned import estimates, save_now_and_then
from services.inference.telemetry import Metrics

Background = tuple[str, Callable[[], Coroutine[None, None, None]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What decides, and what must run for it."""

    engine: Engine
    instances: Mapping[str, Ollama]
    metrics: Metrics
    background: list[Background]


@asynccontextmanager
async def deciding(config: Config, registry: CollectorRegistry, ledger: Ledger) -> AsyncIterator[Truth]:
    """All that there can be only one of: the scheduler, and who looks after the instances."""
    async with AsyncExitStack() as opened:
        opened.enter_context(loop_watched(registry))
        instances = await opened_instances(config, opened)
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
        fleet_metrics = FleetMetrics(
            registry,
            ledger,
            scheduler,
            HardwareMetrics(registry, gpus.latest, lambda: gpus.count_max),
            waiting_max=config.scheduling.waiting_max,
        )

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
        yield Truth(engine=engine, instances=instances, metrics=metrics, background=background)


async def opened_instances(config: Config, opened: AsyncExitStack) -> Mapping[str, Ollama]:
    return {
        endpoint.name: await opened.enter_async_context(_ollama(endpoint, config))
        for endpoint in config.endpoints
    }


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
