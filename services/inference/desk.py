"""Where the gateway hands in work: at the engine, in this process or in another (processes/far_engine.py)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from services.inference.core.admission import Order
from services.inference.core.jobs import Job
from services.inference.engine import Engine, Terms
from services.inference.work import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Who runs and who waits, at one moment."""

    busy: Mapping[str, Mapping[str, int]]  # Slots in use, by instance and model key.
    queues: Mapping[str, list[Job]]


class Desk(Protocol):
    """Takes work, and gives it up. Whoever was given a ticket must abandon it, however the work ends."""

    async def submit(self, order: Order, terms: Terms, work: Work) -> int:
        """Queue `work` for a slot; return its ticket. Raises QueueFull and DeadlineUnreachable.

        Who is cancelled here has no ticket and need not abandon anything.
        """

    def abandon(self, ticket: int) -> None:
        """The caller is gone, for whatever reason. Idempotent and synchronous."""

    async def standing(self) -> Standing:
        """Tell who runs and who waits."""


class NearDesk:
    """The engine is here: nothing waits, and nothing can come between."""

    def __init__(self, engine: Engine, instances: Iterable[str]) -> None:
        self._engine = engine
        self._instances = tuple(instances)

    async def submit(self, order: Order, terms: Terms, work: Work) -> int:
        return self._engine.submit(order, terms, work)

    def abandon(self, ticket: int) -> None:
        self._engine.abandon(ticket)

    async def standing(self) -> Standing:
        busy = {name: self._engine.busy(name) for name in self._instances}
        return Standing(busy=busy, queues=self._engine.queues())
