"""Which instance has which model, and how: what the last look at each instance found.

The ledger knows models and instances; the scheduler knows jobs and slots. `capacity` is the one bridge
from the first to the second.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from services.inference.core.breaker import BreakerState
from services.inference.core.catalog import Catalog
from services.inference.core.gpus import Gpu
from services.inference.core.hosts import Capacity
from services.inference.core.names import key
from services.inference.core.wishes import NO_WISHES, Wishes


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A model on an instance's disk."""

    name: str  # In the instance's own spelling.
    digest: str = ""
    size_bytes: int = 0
    family: str = ""
    parameter_size: str = ""
    quantization: str = ""
    capabilities: frozenset[str] = frozenset()  # Empty: the instance does not say.
    modified_at: datetime | None = None

    @property
    def only_embeds(self) -> bool:
        return self.capabilities == {"embedding"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """A model in an instance's memory."""

    name: str
    digest: str = ""
    size_bytes: int = 0
    vram_bytes: int = 0
    context_token_count: int = 0
    quantization: str = ""
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What an instance says of itself."""

    version: str = ""
    cards: tuple[Card, ...] = ()
    residents: tuple[Resident, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceView:
    """An instance as last seen. What is not ready keeps its last report, but has no slots."""

    name: str
    slots: int = 0
    unready_reason: str = ""  # Empty: ready.
    silent: bool = False  # Whether that look was not answered in time.
    seen_at: datetime | None = None
    report: Report = Report()
    asked_at_s: float = 0.0  # When that look began, on the event loop's clock.
    gpus: tuple[Gpu, ...] = ()  # Those that are its own, where this machine can tell.
    vram_bytes: int = 0  # Of its accelerator; 0 if unknown.
    breaker: BreakerState = BreakerState.CLOSED  # Not closed: not ready.
    wishes: Wishes = NO_WISHES
    cards: Mapping[str, Card] = field(init=False)
    residents: Mapping[str, Resident] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cards", _by_key(self.report.cards))
        object.__setattr__(self, "residents", {key(found.name): found for found in self.report.residents})

    @property
    def ready(self) -> bool:
        return not self.unready_reason

    def doubted(self, reason: str, *, silent: bool = False) -> "InstanceView":
        """Return the same instance, to which nothing is sent until it has been seen again."""
        return replace(self, unready_reason=reason, silent=silent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model somewhere in the fleet. Where instances disagree, the card changed last counts."""

    card: Card
    instances: tuple[str, ...]
    resident_instances: tuple[str, ...]
    context_token_count: int  # Of those that have it loaded, the smallest; 0 if none has.
    need_bytes: int  # Of memory when it is loaded: as seen, or estimated.
    ready: bool  # Whether one of its instances is.
    pinned: bool  # Whether one of its instances keeps it loaded.


class Ledger:
    """The last view of every instance. Small and read-mostly: questions walk the instances."""

    def __init__(self) -> None:
        self._views: dict[str, InstanceView] = {}
        self._tell: list[Callable[[InstanceView], None]] = []

    def tells(self, tell: Callable[[InstanceView], None]) -> None:
        """Have `tell` hear of each view from now on."""
        self._tell.append(tell)

    def observe(self, view: InstanceView) -> None:
        self._views[view.name] = view
        for tell in self._tell:
            tell(view)

    def view(self, name: str) -> InstanceView:
        return self._views[name]

    def views(self) -> list[InstanceView]:
        return sorted(self._views.values(), key=lambda view: view.name)

    def any_ready(self) -> bool:
        return any(view.ready for view in self._views.values())

    def model(self, model_key: str) -> Model | None:
        """Return what the fleet knows of a model, by its key."""
        views = [view for view in self.views() if model_key in view.cards]
        if not views:
            return None
        loaded = [view for view in views if model_key in view.residents]
        residents = [view.residents[model_key] for view in loaded]
        return Model(
            card=max((view.cards[model_key] for view in views), key=_changed_last),
            instances=tuple(view.name for view in views),
            resident_instances=tuple(view.name for view in loaded),
            context_token_count=min((resident.context_token_count for resident in residents), default=0),
            need_bytes=max(_need_bytes(view, model_key) for view in loaded or views),
            ready=any(view.ready for view in views),
            pinned=any(model_key in view.wishes.pinned for view in views),
        )

    def model_keys(self) -> list[str]:
        """Return the keys of all models, in order."""
        return sorted({model_key for view in self._views.values() for model_key in view.cards})


def capacity(view: InstanceView, catalog: Catalog) -> Capacity:
    """Return what the scheduler may use of an instance: nothing, unless it is ready."""
    limits = {model: _slots_max(card, catalog.of(model).slots_max) for model, card in view.cards.items()}
    return Capacity(
        instance=view.name,
        slots=view.slots if view.ready else 0,
        models={model: catalog.of(model).vram_bytes or _need_bytes(view, model) for model in view.cards},
        slots_of={model: slots for model, slots in limits.items() if slots},
        loaded={model: resident.size_bytes for model, resident in view.residents.items()},
        foreign=frozenset(
            model
            for model, resident in view.residents.items()
            if (wanted := catalog.of(model).context_token_count)
            and resident.context_token_count not in {0, wanted}
        ),
        vram_bytes=view.vram_bytes,
        asked_at_s=view.asked_at_s,
        pinned=view.wishes.pinned,
        wanted=view.wishes.loads,
        unwanted=view.wishes.unloads,
    )


def _slots_max(card: Card, configured: int) -> int:
    """How many requests for a model an instance runs at once; 0 if as many as it has slots.

    Ollama gives a model that can only embed one slot, whatever else is configured.
    """
    return configured or (1 if card.only_embeds else 0)


def _need_bytes(view: InstanceView, model: str) -> int:
    """The memory that a model takes: as seen, or else its weights and a fifth for context and buffers."""
    resident = view.residents.get(model)
    if resident is not None and resident.size_bytes:
        return resident.size_bytes
    return view.cards[model].size_bytes * 6 // 5


def _by_key(cards: Iterable[Card]) -> dict[str, Card]:
    return {key(card.name): card for card in cards}


def _changed_last(card: Card) -> tuple[float, str]:
    return (card.modified_at.timestamp() if card.modified_at else 0.0, card.digest)
