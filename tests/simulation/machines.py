"""The instances of a simulated fleet as they truly are, which the scheduler learns of late and in part."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.inference.core.hosts import Capacity
from services.inference.core.jobs import Job
from services.inference.core.usage import Usage

TOKEN_S, PREFILL_TOKEN_S, LOAD_BYTES_PER_S = 0.01, 0.001, 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    name: str
    slots: int
    models: Mapping[str, int]  # With the memory that each needs.
    vram_bytes: int = 1_000
    known: bool = True  # Whether it says how much memory it has, and models need.
    slots_of: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Run:
    job: Job
    worked: float  # The part of its wall time that the instance worked on it.
    began_s: float
    fails: bool
    load_s: float = 0.0
    share_s: float = 0.0  # GPU-seconds so far.

    def usage(self, now_s: float, *, output_token_count: int) -> Usage:
        """What the instance says that it cost."""
        wall_s, prompt_count = now_s - self.began_s - self.load_s, self.job.prompt_token_count
        prompt_s = prompt_count * PREFILL_TOKEN_S
        return Usage(
            prompt_token_count=prompt_count,
            prompt_s=prompt_s * self.worked,
            output_token_count=output_token_count,
            output_s=(wall_s - prompt_s) * self.worked,
            load_s=self.load_s,
        )


@dataclass(slots=True)
class Machine:
    spec: Spec
    slots: int = 0  # As told; 0 while it is away.
    epoch: int = 0  # Of what is under way; another one after a restart.
    resident: dict[str, float] = field(default_factory=dict)  # Models, and when they were last used.
    since: dict[str, float] = field(default_factory=dict)
    running: dict[int, Run] = field(default_factory=dict)
    loading: str = ""
    unloading: set[str] = field(default_factory=set)
    victims: set[str] = field(default_factory=set)  # Told to go, for the load that is next or under way.
    # What the scheduler cannot know yet, with the time when it happened; and what it must know.
    gone: dict[str, float] = field(default_factory=dict)
    untold: dict[str, float] = field(default_factory=dict)
    foreign: set[str] = field(default_factory=set)  # Loaded by others, with options that are not ours.
    sure: set[str] = field(default_factory=set)
    loaded_at_s: float = 0.0  # When its last load ended: of what others loaded, only later looks tell.
    doubted_at_s: float = 0.0  # When it may last have evicted something for a load.
    # Where its time went.
    tenants: dict[str, float] = field(default_factory=dict)
    idle_s: float = 0.0
    load_s: float = 0.0

    def free_for(self, model: str) -> int:
        mine = sum(run.job.model == model for run in self.running.values())
        return min(self.slots - len(self.running), self.spec.slots_of.get(model, self.slots + mine) - mine)

    def uses(self, model: str) -> bool:
        return any(run.job.model == model for run in self.running.values())

    def spend(self, passed_s: float) -> None:
        for run in self.running.values():
            run.share_s += passed_s / len(self.running)
        if not self.running:
            if self.loading:
                self.load_s += passed_s
            else:
                self.idle_s += passed_s

    def settle(self, run: Run, usage: Usage | None, now_s: float) -> None:
        """A tenant pays for the part of its share in which the instance worked for it; the rest was idle."""
        tenant, wall_s = run.job.tenant, now_s - run.began_s
        worked = 1.0 if usage is None or wall_s <= 0 else (usage.prompt_s + usage.output_s) / wall_s
        self.tenants[tenant] = self.tenants.get(tenant, 0.0) + run.share_s * worked
        self.idle_s += run.share_s * (1 - worked)

    def needed(self, models: set[str]) -> int:
        return sum(self.spec.models[model] for model in models)

    def make_room(self, model: str) -> list[str]:
        """Evict idle models until `model` fits, the longest unused first, as Ollama does. Return which."""
        evicted = []
        for other in sorted(self.resident, key=lambda name: (self.resident[name], name)):
            if self.needed({*self.resident, model}) <= self.spec.vram_bytes:
                break
            if other != model and not self.uses(other):
                self.evict(other)
                evicted.append(other)
        return evicted

    def evict(self, model: str) -> None:
        del self.resident[model], self.since[model]
        self.untold.pop(model, None)
        self.sure.discard(model)
        self.foreign.discard(model)

    def has(self, model: str) -> bool:
        return model in self.resident and model not in self.foreign

    def hold(self, model: str, now_s: float) -> None:
        self.since.setdefault(model, now_s)
        self.resident[model] = now_s

    def look(self, now_s: float) -> Capacity:
        """What a look that begins now will show."""
        return Capacity(
            instance=self.spec.name,
            slots=self.spec.slots,
            models={
                model: need_bytes if self.spec.known else 0 for model, need_bytes in self.spec.models.items()
            },
            loaded={model: self.spec.models[model] for model in self.listed()},
            foreign=frozenset(self.foreign),
            slots_of=self.spec.slots_of,
            vram_bytes=self.spec.vram_bytes if self.spec.known else 0,
            asked_at_s=now_s,
        )

    def listed(self) -> list[str]:
        """Ollama lists a model from the moment that it begins to load it."""
        return sorted({*self.resident, self.loading} - {""})

    def told(self, capacity: Capacity) -> None:
        """The scheduler has this look now."""
        self.slots = capacity.slots
        asked_at_s = capacity.asked_at_s
        for model, gone_at_s in list(self.gone.items()):
            if gone_at_s <= asked_at_s and not self.uses(model):
                del self.gone[model]
        for model, came_at_s in list(self.untold.items()):
            tells = came_at_s < asked_at_s >= self.loaded_at_s and not self.loading
            if tells and model not in self.foreign:
                del self.untold[model]
        for model in capacity.loaded if asked_at_s > self.doubted_at_s else ():
            if self.since.get(model, asked_at_s) < asked_at_s and model not in self.untold:
                self.sure.add(model)
