"""An instance as the scheduler knows it: what it holds, what it runs, what is being changed about it.

What an instance says (`Capacity`) is always a little old, and what it was told to do is newer. So a look
counts only for what had happened before it began.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from math import inf

from services.inference.core.decisions import Cause
from services.inference.core.jobs import Job

_FULL_FOR_S = 600.0
_KEPT_FOR_S = 60.0  # A model that was used within this time has hardly gone because its keep-alive ran out.


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What an instance can take, and holds. Memory is in bytes; 0 where it is not known."""

    instance: str
    slots: int  # Of all its models together; 0 while nothing is to be sent to it.
    models: Mapping[str, int]  # On its disk, with the memory each would need.
    loaded: Mapping[str, int] = field(default_factory=dict)  # In its memory.
    # Those of them that it loaded with other options than ours, so that the first request would reload them.
    foreign: frozenset[str] = frozenset()
    slots_of: Mapping[str, int] = field(default_factory=dict)  # For models that get fewer than all slots.
    vram_bytes: int = 0
    asked_at_s: float = 0.0  # When the look began.
    # What an operator wants (core/wishes.py).
    pinned: frozenset[str] = frozenset()
    wanted: frozenset[str] = frozenset()
    unwanted: frozenset[str] = frozenset()


@dataclass(slots=True)
class Resident:
    """A model in an instance's memory."""

    since_s: float
    known_at_s: float  # A look that began earlier says nothing about it.
    used_s: float
    certain: bool = True  # Whether it is known to have survived the last load.


@dataclass(slots=True)
class Running:
    job: Job
    cost_s: float  # GPU-seconds that its tenant was charged.
    reused_token_count: int
    prompt_read_at_s: float  # As predicted.
    ends_at_s: float  # As predicted.


class Phase(Enum):
    DRAINING = auto()  # The models that must go still run.
    UNLOADING = auto()
    LOADING = auto()


@dataclass(slots=True)
class Swap:
    """A model on its way into an instance's memory, and those that must go for it; or, without one, only those."""

    model: str
    cause: Cause
    victims: tuple[str, ...]
    sure: bool  # Whether the model is known to fit beside those that stay.
    phase: Phase = Phase.DRAINING
    leaving: set[str] = field(default_factory=set)
    began_s: float = 0.0


class Fit(Enum):
    YES = auto()
    NO = auto()
    UNKNOWN = auto()


class Host:
    """One instance."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.slots = 0
        self.models: Mapping[str, int] = {}
        self.slots_of: Mapping[str, int] = {}
        self.residents: dict[str, Resident] = {}
        self.running: dict[int, Running] = {}
        self.placed_since_aged_count = 0  # Placements since the last one of an aged job.
        self.swap: Swap | None = None
        self.pinned = self.wanted = self.unwanted = frozenset[str]()
        self.has_wishes = False  # Whether any of these is not empty: it is asked at every decision.
        self._vram_bytes = 0
        self._room_bytes = 0  # The most that was seen to fit,
        # and, by the number of models, the least that was seen not to, and until when that is believed: it may
        # have been a coincidence.
        self._full: dict[int, tuple[int, float]] = {}
        self._loaded_at_s = -inf
        self._came = ""  # A model that was known to fit and came last, until a look tells who survived it.
        self._left_at_s: dict[str, float] = {}  # When models were unloaded, for looks that began before.

    @property
    def free(self) -> int:
        return self.slots - len(self.running)

    def slots_for(self, model: str) -> int:
        """Return how many jobs for `model` it runs at once, if no others."""
        return min(self.slots, self.slots_of.get(model, self.slots))

    def free_for(self, model: str) -> int:
        """Return for how many jobs for `model` a slot is free."""
        if model not in self.slots_of or self.free <= 0:
            return self.free
        return min(self.free, self.slots_for(model) - self._count(model))

    def takes(self, model: str) -> bool:
        """Whether a job for `model` may be sent here now."""
        return self.serves(model) and self.free_for(model) > 0

    def serves(self, model: str) -> bool:
        """Whether a job for `model` may be sent here, a free slot provided."""
        resident = self.residents.get(model)
        if resident is None or not resident.certain or model not in self.models or model in self.unwanted:
            return False
        swap = self.swap
        if swap is None:
            return True
        if swap.phase is Phase.LOADING and (model == swap.model or not swap.sure):
            return False  # Ollama lists a model from when it begins to load it.
        return model not in swap.victims

    def uses(self, models: Container[str]) -> bool:
        """Whether any of `models` runs here."""
        return any(running.job.model in models for running in self.running.values())

    def free_in_s(self, model: str, now_s: float) -> float:
        """Predict when the first slot is free for a job for `model`."""
        if self.free_for(model) > 0:
            return 0.0
        own = self._count(model) >= self.slots_for(model)  # Then another model's slot does not help.
        ends = (run.ends_at_s for run in self.running.values() if not own or run.job.model == model)
        return max(0.0, min(ends, default=now_s) - now_s)

    def drained_in_s(self, models: Container[str], now_s: float) -> float:
        """Predict when the last job for one of `models` has ended."""
        ends = (run.ends_at_s for run in self.running.values() if run.job.model in models)
        return max(0.0, max(ends, default=now_s) - now_s)

    def observe(self, capacity: Capacity, now_s: float) -> None:
        self.slots, self.slots_of = capacity.slots, capacity.slots_of
        self.models, self._vram_bytes = capacity.models, capacity.vram_bytes
        self.pinned, self.wanted, self.unwanted = capacity.pinned, capacity.wanted, capacity.unwanted
        self.has_wishes = bool(self.pinned or self.wanted or self.unwanted)
        if not capacity.slots:
            return  # It has not been seen: what it holds is not known either.
        self._full = {count: full for count, full in self._full.items() if full[1] > now_s}
        # Ollama lists a model from the moment that it begins to load it, and a load makes room for itself.
        if not self._is_loading and capacity.asked_at_s >= self._loaded_at_s:
            for model in sorted(capacity.loaded.keys() - self.residents.keys() - capacity.foreign):
                if self._left_at_s.get(model, -inf) < capacity.asked_at_s:
                    self.residents[model] = Resident(now_s, capacity.asked_at_s, now_s)
            self._room_bytes = max(self._room_bytes, self._bytes(capacity.loaded))
        self._confirm(capacity, now_s)
        if capacity.asked_at_s >= self._loaded_at_s:
            self._came = ""

    def _confirm(self, capacity: Capacity, now_s: float) -> None:
        """Forget what is not there any more, and learn from it what does not fit together."""
        swap = self.swap
        coming = swap.model if swap is not None and self._is_loading else ""
        doubted = swap is not None and bool(coming) and not swap.sure
        # Models that were known to fit go only if the instance has a bound of its own on their number.
        crowded = coming in capacity.loaded or bool(self._came and capacity.loaded)
        evicted: list[str] = []  # For another one: the one that is coming, or that came last.
        surplus: list[str] = []
        for model, resident in list(self.residents.items()):
            if resident.known_at_s > capacity.asked_at_s:
                continue
            if model in capacity.loaded and model not in capacity.foreign:
                resident.certain = True
                continue
            used = self.uses({model})  # If so, the instance will load it again.
            if model in capacity.foreign:
                pass
            elif doubted or not resident.certain:
                evicted += [] if used else [model]
            elif crowded and now_s - resident.used_s < _KEPT_FOR_S:
                surplus.append(model)
            if not used:
                del self.residents[model]
        together = {*self.residents, coming} - {""}
        if evicted:  # One of them was the last to go: with it, the others did not fit.
            last_bytes = max(self._bytes([model]) for model in evicted)
            self._note_full(len(together) + 1, self._bytes(together) + last_bytes, now_s)
        elif surplus:
            self._note_full(len(together.union(surplus)), 0, now_s)

    def _note_full(self, count: int, needed: int, now_s: float) -> None:
        """Believe for a while that so many models that need so many bytes do not fit."""
        least, _ = self._full.get(count, (needed, 0.0))
        self._full[count] = min(least, needed), now_s + _FULL_FOR_S

    def loaded(self, model: str, now_s: float) -> None:
        """Note that `model` is in memory."""
        sure = self.swap is not None and self.swap.sure
        self.load_ended(now_s)
        self._came = model if sure else ""
        self.residents[model] = Resident(now_s, now_s, now_s)

    def load_ended(self, now_s: float) -> None:
        """Unless the model was known to fit, doubt the others: they may have had to go, even if it failed."""
        sure = self.swap is None or self.swap.sure
        self._came = ""
        self.swap, self._loaded_at_s = None, now_s
        for resident in self.residents.values():
            if not sure:
                resident.certain, resident.known_at_s = False, now_s

    def unloaded(self, model: str, now_s: float) -> None:
        self.residents.pop(model, None)
        self._left_at_s[model] = now_s
        if self.swap is not None:
            self.swap.leaving.discard(model)

    def fit(self, models: Iterable[str]) -> Fit:
        """Whether `models` go into its memory together."""
        wanted = list(models)
        if len(wanted) <= 1:
            return Fit.YES  # Or it would not run at all; the instance knows best.
        needed = self._bytes(wanted)
        if 0 < self._vram_bytes < needed or any(
            len(wanted) >= count and needed >= least for count, (least, _) in self._full.items()
        ):
            return Fit.NO
        if all(self.models.get(model) for model in wanted) and needed <= max(
            self._vram_bytes, self._room_bytes
        ):
            return Fit.YES
        return Fit.YES if self.residents.keys() >= set(wanted) else Fit.UNKNOWN

    def left_bytes(self, beside: Iterable[str]) -> int:
        """Return how much memory is left beside some models, as far as is known."""
        return max(0, (self._vram_bytes or self._room_bytes) - self._bytes(beside))

    def holds(self, model: str) -> bool:
        """Whether its memory is large enough for `model`, if nothing else is in it; true if nobody knows."""
        return not 0 < self._vram_bytes < self.models.get(model, 0)

    @property
    def _is_loading(self) -> bool:
        return self.swap is not None and self.swap.phase is Phase.LOADING

    def _count(self, model: str) -> int:
        return sum(run.job.model == model for run in self.running.values())

    def _bytes(self, models: Iterable[str]) -> int:
        return sum(self.models.get(model, 0) for model in models)
