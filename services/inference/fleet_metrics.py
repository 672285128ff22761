"""What each instance does, sampled: Ollama exposes no such metrics itself.

Queue, running and KV are the three that the Gateway API inference extension's model-server protocol asks of
every model server, so that its schedulers can read an Ollama fleet; they can be told these names.
"""

import asyncio
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Gauge

from services.inference.core.breaker import BreakerState
from services.inference.core.ledger import Ledger
from services.inference.core.scheduler import Scheduler
from services.inference.hardware_metrics import HardwareMetrics

EVERY_S = 1.0


class FleetMetrics:
    """Gauges of all instances."""

    def __init__(
        self,
        registry: CollectorRegistry,
        ledger: Ledger,
        scheduler: Scheduler,
        hardware: HardwareMetrics,
        *,
        waiting_max: int,
    ) -> None:
        self._ledger, self._scheduler, self._hardware = ledger, scheduler, hardware
        self._oldest = Gauge(
            "ollamesh_queue_oldest_seconds", "How long the first in all queues has waited", registry=registry
        )
        Gauge("ollamesh_queue_limit", "Requests that may wait for one model at most", registry=registry).set(
            waiting_max
        )
        self._slots = _gauge(registry, "slots", "Requests that it may run at once")
        self._running = _gauge(registry, "running_requests", "Slots in use")
        self._queued = _gauge(
            registry,
            "queued_requests",
            "Requests that wait, shared out over the instances that have their model",
        )
        self._kv = _gauge(
            registry,
            "kv_cache_utilization",
            "How much of the slots is in use, 0 to 1: an estimate, for Ollama does not say",
        )
        self._ready = _gauge(registry, "ready", "1 while work is sent to it")
        self._breaker_open = _gauge(
            registry, "breaker_open", "1 while no work is sent to it because it fails"
        )
        self._resident = _gauge(registry, "resident_models", "Models in its memory")
        self._time_s = Gauge(
            "ollamesh_instance_time_seconds",
            "An instance's time so far, by use; tenants, load and idle add up to wall",
            ("instance", "use"),
            registry=registry,
        )

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            self.sample(asyncio.get_running_loop().time())
            await asyncio.sleep(EVERY_S)

    def sample(self, now_s: float) -> None:
        books = self._scheduler.books(now_s)
        self._oldest.set(now_s - min(self._arrived_at_s(), default=now_s))
        self._hardware.sample(self._ledger.views())
        for view in self._ledger.views():
            name = view.name
            self._slots.labels(name).set(view.slots)
            running = sum(self._scheduler.busy(name).values())
            self._running.labels(name).set(running)
            self._queued.labels(name).set(self._scheduler.queued_count(name))
            self._kv.labels(name).set(min(1.0, running / view.slots) if view.slots else 0.0)
            self._ready.labels(name).set(view.ready)
            self._breaker_open.labels(name).set(view.breaker is not BreakerState.CLOSED)
            self._resident.labels(name).set(len(view.residents))
            if name in books:
                own = books[name]
                self._time_s.labels(name, "tenants").set(sum(own.tenants.values()))
                self._time_s.labels(name, "load").set(own.load_s)
                self._time_s.labels(name, "idle").set(own.idle_s)
                self._time_s.labels(name, "wall").set(own.wall_s)

    def _arrived_at_s(self) -> Iterator[float]:
        for model in self._scheduler.models_waited_for():
            yield from (job.arrived_at_s for job in self._scheduler.line(model))


def _gauge(registry: CollectorRegistry, name: str, help_text: str) -> Gauge:
    return Gauge(f"ollamesh_instance_{name}", help_text, ("instance",), registry=registry)
