"""What the service does, call by call: the order in which core, engine and instances are asked."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from services.common.errors import MeshError
from services.common.screening import Screen
from services.inference.answer_cache import AnswerCache
from services.inference.budgets import Budgets, Hold
from services.inference.charging import Record, charged_embedding
from services.inference.core.admission import Order, admit
from services.inference.core.allowed import Allowed, Models
from services.inference.core.asks import Ask, Chat, Embed, Generate, Role
from services.inference.core.bounds import Bounds
from services.inference.core.callers import CachePolicy, Principal, Wishes
from services.inference.core.catalog import Catalog
from services.inference.core.jobs import Job
from services.inference.core.ledger import InstanceView, Ledger, Model
from services.inference.core.names import key
from services.inference.desk import Desk
from services.inference.embeddings import Answer, Embeddings
from services.inference.engine import Terms
from services.inference.errors import InstanceFailed, ModelNotAllowed, ModelNotFound, NoInstance
from services.inference.library import Library
from services.inference.ports import Description, Instance, Trouble
from services.inference.streams.means import Asked, Stream
from services.inference.streams.registry import Streams
from services.inference.telemetry import Metrics


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
    streams: Streams
    record: Record  # Is given what each embedding used.
    library: Library
    embeddings: Embeddings
    screen: Screen
    cache: AnswerCache | None  # None: every answer is generated.
    budgets: Budgets | None = None  # None: nobody is charged.
    tenant_models: Mapping[str, Models] = field(default_factory=dict)

    async def open(
        self, ask: Chat | Generate, principal: Principal, terms: Terms, bounds: Bounds, *, wishes: Wishes
    ) -> Stream:
        """Accept a completion, or raise why not. Its reader gets serialised responses (wire/frames.py)."""
        order = self._admit(ask, terms, bounds)
        flagged = self.screen.flags(_prompts(ask))
        model = self.ledger.model(order.model)
        assert model is not None, "it was admitted"
        asked = Asked(
            order=order,
            terms=terms,
            principal=principal,
            wishes=wishes,
            model_digest=model.card.digest,
        )
        hold = await self._held(principal, order, is_stream=True)
        try:
            stream = await self.streams.open(asked)
        except BaseException:
            hold.release()
            raise
        return replace(stream, flagged=flagged, left=hold.release)

    async def embed(
        self,
        ask: Embed,
        principal: Principal,
        terms: Terms,
        bounds: Bounds,
        policy: CachePolicy = CachePolicy.DETERMINISTIC,
    ) -> Answer:
        """Return the vectors, or raise why there are none."""
        order = self._admit(ask, terms, bounds)
        model = self.ledger.model(order.model)
        assert model is not None, "it was admitted"
        hold = await self._held(principal, order, is_stream=False)
        try:
            with charged_embedding(self.record, principal, order.model) as charge:
                answer = await self.embeddings.embed(order, terms, card=model.card, policy=policy)
                charge(answer)
        finally:
            hold.release()
        return answer

    async def purge_cache(self, tenant: str, model: str) -> None:
        """Forget what is kept of a tenant's answers, or of those of one model if it is not empty."""
        if self.cache is not None:
            await self.cache.purge(tenant, key(model) if model else None)

    def allowed(self, tenant: str, bounds: Bounds) -> Allowed:
        """Return which models a caller may use."""
        return Allowed(role=bounds.models, tenant=self.tenant_models.get(tenant))

    def models(self, *, after: str, count_max: int, allowed: Allowed) -> tuple[list[Model], bool]:
        """Return up to `count_max` models whose keys follow `after`, and whether there are more."""
        keys = [
            model_key
            for model_key in self.ledger.model_keys()
            if model_key > after and allowed.names(model_key)
        ]
        found = [self.ledger.model(model_key) for model_key in keys[:count_max]]
        return [model for model in found if model is not None], len(keys) > count_max

    @property
    def has_seen_all(self) -> bool:
        """Whether it is known of every instance which models it has."""
        seen = {view.name for view in self.ledger.views() if view.ready or view.cards}
        return seen.issuperset(self.instances)

    async def describe(self, name: str, allowed: Allowed) -> tuple[Model, Description]:
        """Return all that is known of one model. To those who may not use it, there is none."""
        if not allowed.names(key(name)):
            raise ModelNotFound(model=name)
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

    async def load(self, name: str, instance: str, *, pin: bool, allowed: Allowed) -> str:
        """Have a model loaded before it is needed; return where."""
        if not allowed.names(key(name)):
            raise ModelNotAllowed(model=name)
        return await self.library.load(name, instance, pin=pin)

    async def copy(self, source: str, destination: str, allowed: Allowed) -> Model:
        """Give a model a second name. One that may not be used must not become usable by another name."""
        for name in (source, destination):
            if not allowed.names(key(name)):
                raise ModelNotAllowed(model=name)
        return await self.library.copy(source, destination)

    async def _held(self, principal: Principal, order: Order, *, is_stream: bool) -> Hold:
        """Have it charged. Raises QuotaExceeded and QuotaUnavailable, before anything is queued."""
        if self.budgets is None:
            return Hold(lambda: None)
        try:
            return await self.budgets.hold(principal, order, is_stream=is_stream)
        except MeshError as error:
            self.metrics.refused(error.reason)
            raise

    def _admit(self, ask: Ask, terms: Terms, bounds: Bounds) -> Order:
        try:
            if not self.allowed(terms.tenant, bounds).names(key(ask.model)):
                raise ModelNotAllowed(model=ask.model)
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


def _prompts(ask: Chat | Generate) -> Iterator[tuple[str, str]]:
    """What the user says, by field."""
    if isinstance(ask, Generate):
        yield "prompt", ask.prompt
        return
    for place, message in enumerate(ask.messages):
        if message.role is Role.USER:
            yield f"messages[{place}].content", message.content
