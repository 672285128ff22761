"""What the service does, call by call: the order in which core, engine and instances are asked."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from services.common.errors import MeshError
from services.inference.answer_cache import AnswerCache
from services.inference.completion import Completion, Event
from services.inference.core.admission import Order, admit
from services.inference.core.asks import Ask, Chat, Embed, Generate
from services.inference.core.bounds import Bounds
from services.inference.core.callers import CachePolicy
from services.inference.core.catalog import Catalog
from services.inference.core.jobs import Job
from services.inference.core.ledger import InstanceView, Ledger, Model
from services.inference.core.names import key
from services.inference.desk import Desk
from services.inference.embeddings import Answer, Embeddings
from services.inference.engine import Terms
from services.inference.errors import InstanceFailed, ModelNotFound, NoInstance
from services.inference.ports import Description, Instance, Trouble
from services.inference.telemetry import Metrics
from services.inference.work import Answering

Frame = TypeVar("Frame")


@dataclass(frozen=True, slots=True)
class Stream(Generic[Frame]):
    """An accepted completion. Whoever has it must close it, however reading ends."""

    _engine: Desk
    _ticket: int
    _completion: Completion[Frame]

    def read(self) -> Awaitable[Frame | None]:
        """Return the next event's frame, None after the last; raise how it failed."""
        return self._completion.read()

    def close(self) -> None:
        """End the work if it has not ended. Idempotent and synchronous."""
        self._engine.abandon(self._ticket)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetView:
    """Everything that serves, and everything that waits."""

    instances: list[InstanceView]
    busy: Mapping[str, Mapping[str, int]]  # Slots in use, by instance and model key.
    queues: Mapping[str, list[Job]]
    now_s: float  # On the clock of Job.arrived_at_s.


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The service without its wire."""

    engine: Desk
    ledger: Ledger
    instances: Mapping[str, Instance]
    catalog: Catalog
    metrics: Metrics
    buffer_bytes_max: int
    embeddings: Embeddings
    cache: AnswerCache | None  # None: every answer is generated.

    async def open(
        self,
        ask: Chat | Generate,
        terms: Terms,
        bounds: Bounds,
        *,
        seal: Callable[[Event], Frame],
        by_token: bool = False,
    ) -> Stream[Frame]:
        """Accept a completion, whose events are read as `seal` makes them, or raise why not."""
        order = self._admit(ask, terms, bounds)
        completion = Completion(
            secrets.token_hex(16),
            seal=seal,
            opened_at_s=asyncio.get_running_loop().time(),
            buffer_bytes_max=self.buffer_bytes_max,
            by_token=by_token,
        )
        ticket = await self.engine.submit(order, terms, Answering(order, completion))
        return Stream(self.engine, ticket, completion)

    async def embed(
        self,
        ask: Embed,
        terms: Terms,
        bounds: Bounds,
        policy: CachePolicy = CachePolicy.DETERMINISTIC,
    ) -> Answer:
        """Return the vectors, or raise why there are none."""
        order = self._admit(ask, terms, bounds)
        model = self.ledger.model(order.model)
        assert model is not None, "it was admitted"
        return await self.embeddings.embed(order, terms, card=model.card, policy=policy)

    async def purge_cache(self, tenant: str, model: str) -> None:
        """Forget what is kept of a tenant's answers, or of those of one model if it is not empty."""
        if self.cache is not None:
            await self.cache.purge(tenant, key(model) if model else None)

    def models(self, *, after: str, count_max: int) -> tuple[list[Model], bool]:
        """Return up to `count_max` models whose keys follow `after`, and whether there are more."""
        keys = [model_key for model_key in self.ledger.model_keys() if model_key > after]
        found = [self.ledger.model(model_key) for model_key in keys[:count_max]]
        return [model for model in found if model is not None], len(keys) > count_max

    async def describe(self, name: str) -> tuple[Model, Description]:
        """Return all that is known of one model."""
        model = self.ledger.model(key(name))
        if model is None:
            raise ModelNotFound(model=name) if self.ledger.any_ready() else NoInstance(model=name)
        ready = [view for view in map(self.ledger.view, model.instances) if view.ready]
        if not ready:
            raise NoInstance(model=name)
        try:
            return model, await self.instances[ready[0].name].describe(ready[0].cards[key(name)].name)
        except Trouble as trouble:
            raise InstanceFailed(instance=ready[0].name) from trouble

    def _admit(self, ask: Ask, terms: Terms, bounds: Bounds) -> Order:
        try:
            return admit(ask, tenant=terms.tenant, ledger=self.ledger, bounds=bounds, catalog=self.catalog)
        except MeshError as error:
            self.metrics.refused(error.reason)
            raise

    async def fleet(self) -> FleetView:
        """Return the state of everything."""
        standing = await self.engine.standing()
        return FleetView(
            instances=self.ledger.views(),
            busy={name: standing.busy.get(name, {}) for name in self.instances},
            queues=standing.queues,
            now_s=asyncio.get_running_loop().time(),
        )
