"""Which model lives on which instance: a plan, not an accident.

Ollama loads whatever the next request names and evicts for it, so two models that alternate evict each other
for ever. Here a model is loaded where its queue is predicted to start soonest, and one that has work keeps
its place for a turn that is long against the loads that a change costs (Policy.turn_loads), so that at most
a fixed share of the time goes into loading. One that has none gives way soon. Of the models that wait for a
turn to end, the place goes to the one whose class is highest, and then to the one that has waited longest.
What an operator wants goes before all of that: what is pinned keeps its place, or is brought back to it.

    (nothing) -> DRAINING -> UNLOADING -> LOADING -> resident        a Swap, one at a time per instance
                    |           nothing    |
                    |           has to go  |
                    +-> (nobody waits any  +-> failed: not tried here again for a while
                         more: given up)
"""

from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass
from math import inf

from services.inference.core.decisions import Cause, Load, Unload
from services.inference.core.estimates import Estimates
from services.inference.core.hosts import Fit, Host, Phase, Swap
from services.inference.core.jobs import Priority
from services.inference.core.policy import Policy
from services.inference.core.queues import Queue
from services.inference.core.rooms import Room, has_room, room_on, staying
from services.inference.errors import ModelTooLarge

_TURN_OF_A_LOWER_CLASS = 0.2  # Of a turn: somebody more urgent waits, but two loads each time are too many.
_FORESEEN_FOR_S = 0.1  # How long a prediction is good enough for others who ask.
# A load that takes so many times as long as predicted, and so much longer, is not counted on any more.
_OVERDUE_LOADS = 3.0
_OVERDUE_S = 10.0
_REGRET_S = 300.0  # A model that was used within this time is likely to be wanted again.


@dataclass(frozen=True, slots=True)
class _Offer:
    """Where a model could be loaded, and when it would be there."""

    host: Host
    room: Room
    start_s: float  # From now: the turn of those that must go, or their last jobs, then the load.
    turn_s: float  # What is left of that turn.
    regret_s: float  # What bringing them back would cost.


class Residency:
    """Plans loads. Knows hosts and queues, changes only the hosts' swaps."""

    def __init__(
        self, policy: Policy, estimates: Estimates, hosts: Mapping[str, Host], queues: Mapping[str, Queue]
    ) -> None:
        self._policy = policy
        self._estimates = estimates
        self._hosts = hosts
        self._queues = queues
        self._swapping: dict[str, Host] = {}
        self._foreseen: dict[str, tuple[float, float]] = {}  # When a start was predicted, and in how long.
        self._failures: dict[tuple[str, str], tuple[int, float]] = {}  # Count, and when to try again.
        self._claims: dict[str, str] = {}  # For whom an instance is kept until the next review.

    # What happened

    def loaded(self, host: Host, model: str, now_s: float) -> None:
        self._swapping.pop(host.name, None)
        self._failures.pop((host.name, model), None)
        host.loaded(model, now_s)

    def failed(self, host: Host, model: str, now_s: float) -> None:
        self._swapping.pop(host.name, None)
        host.load_ended(now_s)
        host.unloaded(model, now_s)  # A look that began before may have shown it.
        count = self._failures.get((host.name, model), (0, 0.0))[0] + 1
        delay_s = min(self._policy.load_retry_s * 2.0 ** (count - 1), self._policy.load_retry_max_s)
        self._failures[host.name, model] = count, now_s + delay_s

    def forget(self, host: Host) -> None:
        """The instance is gone or not itself: what was begun there will come to nothing."""
        if host.swap is not None and host.swap.phase is Phase.DRAINING:
            self._give_up(host)

    # What to do

    def review(self) -> None:
        """All models that are waited for are about to be planned for, in the order of their right."""
        self._claims.clear()

    def by_right(self, models: Iterable[str], now_s: float) -> list[str]:
        """Return models that are waited for, the one first that has the best right to be loaded."""
        return sorted(models, key=lambda model: (self._urgency(model, now_s), self._oldest_ticket(model)))

    def advance(self, now_s: float) -> Iterable[Load | Unload]:
        """Yield the next steps of the swaps that have begun."""
        self._obey(now_s)
        for host in list(self._swapping.values()):
            swap = host.swap
            assert swap is not None
            if swap.phase is Phase.DRAINING and host.uses(swap.victims):
                if not self._is_wanted(host, swap.model):
                    self._give_up(host)
                continue
            if swap.phase is Phase.DRAINING:
                swap.phase = Phase.UNLOADING
                swap.leaving = {victim for victim in swap.victims if victim in host.residents}
                for victim in sorted(swap.leaving):
                    yield Unload(host.name, victim)
            if swap.phase is Phase.UNLOADING and not swap.leaving:
                if not swap.model:
                    self._give_up(host)
                    continue
                fit = host.fit([*host.residents, swap.model])
                if swap.model in host.residents or fit is Fit.NO:  # Somebody else had something loaded.
                    self._give_up(host)
                    continue
                swap.sure = fit is Fit.YES
                swap.phase = Phase.LOADING
                swap.began_s = now_s
                yield Load(host.name, swap.model, swap.cause)

    def plan(self, model: str, now_s: float, *, avoid: Container[str] = ()) -> None:
        """Begin to load `model`, which somebody waits for, if and where that serves it best."""
        having = [host for host in self._having(model) if host.name not in avoid]
        if any(self._is_coming(host, model, now_s) for host in having):
            return
        warm = [host for host in having if model in host.residents]
        if sum(host.free_for(model) for host in warm if host.serves(model)) >= len(self._queues[model]):
            return  # All who wait are about to be placed.
        cold = [host for host in having if host not in warm and self._may_claim(host, model)]
        if warm and not self._may_gain(model, len(warm), cold):
            cold = []
        offer = self._soonest(model, cold, now_s)
        if offer is None:
            return
        if offer.turn_s > 0:
            if not warm:  # Or those that ask more often would get there first.
                self._claims[offer.host.name] = model
            return
        if warm:
            queued_s = self._queues[model].gpu_s / len(warm)
            if queued_s < self._policy.spread_gain * offer.start_s:
                return
            if any(self._wanted_as_much(victim, queued_s) for victim in offer.room.victims):
                return
        self._begin(offer.host, offer.room, model, Cause.SPREAD if warm else Cause.DEMAND, now_s)

    def prepare(self, model: str, now_s: float) -> None:
        """Begin to load `model`, jobs for which are refused, where that disturbs nobody.

        Who is refused does not wait, so no queue shows their demand: without this, a model whose jobs have little
        time, or whose queue is always full of short ones, would never get another instance.
        """
        having = self._having(model)
        if any(self._is_coming(host, model, now_s) for host in having):
            return
        warm = any(model in host.residents for host in having)
        idle = [
            host
            for host in having
            if model not in host.residents and not host.running and self._may_claim(host, model)
        ]
        offer = self._soonest(model, idle, now_s)
        if offer is None or offer.turn_s > 0 or (warm and offer.regret_s > 0):
            return
        self._begin(offer.host, offer.room, model, Cause.SPREAD if warm else Cause.DEMAND, now_s)

    def room_for(self, model: str, names: Collection[str], now_s: float) -> str:
        """Return which of some instances is to load a model that an operator wants: one that has it loaded, or the
        one where it disturbs least. Raises ModelTooLarge if it fits on none beside what is pinned or busy.
        """
        hosts = [self._hosts[name] for name in sorted(names)]
        if warm := [host.name for host in hosts if model in host.residents]:
            return warm[0]
        roomy = [host for host in hosts if has_room(host, model, self._queues)]
        if not roomy:
            raise ModelTooLarge(
                model=model,
                needed_bytes=min(host.models.get(model, 0) for host in hosts),
                available_bytes=max(host.left_bytes(staying(host, self._queues)) for host in hosts),
            )
        offers = [offer for host in roomy if (offer := self._offer(host, model, now_s)) is not None]
        best = min(offers, key=lambda each: (each.host.swap is not None, each.start_s + each.regret_s))
        return best.host.name

    def is_held(self, instance: str, model: str) -> bool:
        """Whether a model is in an instance's memory."""
        return model in self._hosts[instance].residents

    def is_loading(self, instance: str, model: str) -> bool:
        """Whether it is on its way there."""
        swap = self._hosts[instance].swap
        return swap is not None and swap.model == model

    def _obey(self, now_s: float) -> None:
        """Begin what operators want, where nothing else is being changed."""
        for host in self._hosts.values():
            if not host.has_wishes or host.swap is not None or not host.slots:
                continue
            if idle := tuple(
                model for model in sorted(host.unwanted & host.residents.keys()) if not host.uses({model})
            ):
                self._begin(host, Room(idle, sure=True), "", Cause.ASKED, now_s)
                continue
            for model in (*sorted(host.wanted), *sorted(host.pinned - host.wanted)):
                if model in host.residents or model not in host.models or model in host.unwanted:
                    continue
                if model not in host.wanted and (self._blocked(host, model, now_s) or not host.holds(model)):
                    continue
                if (room := room_on(host, model, self._queues)) is not None:
                    self._begin(host, room, model, Cause.ASKED, now_s)
                    break

    def _is_wanted(self, host: Host, model: str) -> bool:
        return model in self._queues or model in host.wanted or model in host.pinned

    def _having(self, model: str) -> list[Host]:
        """Return the instances that could load `model`, or have."""
        return [
            host
            for host in self._hosts.values()
            if model in host.models and host.slots and model not in host.unwanted
        ]

    def _begin(self, host: Host, room: Room, model: str, cause: Cause, now_s: float) -> None:
        host.swap = Swap(
            model=model,
            cause=Cause.SWAP if room.victims and cause is not Cause.ASKED else cause,
            victims=room.victims,
            sure=room.sure,
            began_s=now_s,
        )
        self._swapping[host.name] = host

    def _give_up(self, host: Host) -> None:
        self._swapping.pop(host.name)
        host.swap = None

    def _may_claim(self, host: Host, model: str) -> bool:
        claimant = self._claims.get(host.name, model)
        return claimant == model or claimant not in self._queues

    def start_s(self, model: str, now_s: float, *, remember: bool = False) -> float:
        """Predict how long it takes until a model that no instance has loaded can start; inf if none can.

        What is remembered is good enough for those who ask next, and changes what they are told: only for what
        is recorded (core/recording.py), or a replay would differ.
        """
        having = self._having(model)
        loading = [host for host in having if self._is_coming(host, model, now_s)]
        if loading:
            return min(self._remaining_s(host, now_s) for host in loading)
        asked_at_s, start_s = self._foreseen.get(model, (-inf, inf))
        if now_s - asked_at_s >= _FORESEEN_FOR_S:
            offer = self._soonest(model, having, now_s)
            start_s = offer.start_s if offer is not None else inf
            if remember:
                self._foreseen[model] = now_s, start_s
        return start_s

    def hopeless(self, model: str, now_s: float) -> bool:
        """Whether every instance that could load `model` has failed to, and not only once; or none has room for it."""
        having = self._having(model)
        if having and self.crowded_out(model) is not None:
            return True
        return bool(having) and all(
            model not in host.residents
            and (host.swap is None or host.swap.model != model)
            and self._blocked(host, model, now_s)
            and self._failures[host.name, model][0] >= self._policy.load_failures_max
            for host in having
        )

    def crowded_out(self, model: str) -> ModelTooLarge | None:
        """Return that a model fits nowhere beside what is pinned, if so. An instance that is away leaves hope."""
        hosts = [host for host in self._hosts.values() if model in host.models]
        if any(
            not (host.slots and host.pinned) or model in host.residents or self._fits_beside_pins(host, model)
            for host in hosts
        ):
            return None
        return ModelTooLarge(
            model=model,
            needed_bytes=min((host.models[model] for host in hosts), default=0),
            available_bytes=max((host.left_bytes(host.pinned) for host in hosts), default=0),
        )

    def _fits_beside_pins(self, host: Host, model: str) -> bool:
        return host.fit([*(host.pinned & host.models.keys() - {model}), model]) is not Fit.NO

    def _may_gain(self, model: str, warm_count: int, cold: Iterable[Host]) -> bool:
        """Whether another instance could serve what waits sooner, if it had nothing to do but to load. Most of
        the time this is the answer, and costs a fraction of it.
        """
        soonest_s = min((self._load_s(host, model) for host in cold), default=inf)
        return self._queues[model].gpu_s / warm_count >= self._policy.spread_gain * soonest_s

    def _soonest(self, model: str, hosts: Iterable[Host], now_s: float) -> _Offer | None:
        """Return where `model` would start soonest, counting what bringing others back would cost."""
        offers = [
            offer
            for host in hosts
            if host.swap is None and not self._blocked(host, model, now_s)
            if (offer := self._offer(host, model, now_s)) is not None
        ]
        best = min(offers, key=lambda offer: (offer.start_s + offer.regret_s, offer.host.name), default=None)
        return best if best is not None and best.start_s < inf else None

    def _offer(self, host: Host, model: str, now_s: float) -> _Offer | None:
        if (room := room_on(host, model, self._queues)) is None:
            return None
        victims = room.victims
        turns_s = {victim: self._turn_left_s(host, victim, model, now_s) for victim in victims}
        turn_s = max(turns_s.values(), default=0.0)
        # Who has no more to do gives way before that.
        stays_s = max((self._stay_s(*turn) for turn in turns_s.items()), default=0.0)
        drain_s = host.drained_in_s(victims, now_s) if victims else 0.0
        regret_s = sum(
            self._load_s(host, victim)
            for victim in victims
            if now_s - host.residents[victim].used_s < _REGRET_S
        )
        return _Offer(host, room, max(stays_s, drain_s) + self._load_s(host, model), turn_s, regret_s)

    def _turn_left_s(self, host: Host, victim: str, model: str, now_s: float) -> float:
        """Return for how long `victim` may keep its place from `model`."""
        loads_s = self._load_s(host, victim) + self._load_s(host, model)
        if victim not in self._queues and not host.uses({victim}):
            return max(0.0, host.residents[victim].used_s + self._policy.linger_loads * loads_s - now_s)
        turn_s = max(self._policy.turn_min_s, self._policy.turn_loads * loads_s)
        running = min(
            (run.job.priority for run in host.running.values() if run.job.model == victim),
            default=Priority.BATCH,
        )
        urgency, rival = min(running, self._urgency(victim, now_s)), self._urgency(model, now_s)
        if model not in self._queues or urgency < rival:
            return inf
        if urgency > rival:
            turn_s *= _TURN_OF_A_LOWER_CLASS
        return max(0.0, host.residents[victim].since_s + turn_s - now_s)

    def _stay_s(self, victim: str, turn_s: float) -> float:
        """Predict how much of its turn `victim` has work for."""
        queue = self._queues.get(victim)
        return turn_s if queue is None or turn_s == inf else min(turn_s, queue.gpu_s)

    def _urgency(self, model: str, now_s: float) -> Priority:
        """Return the class that `model` is waited for as: if for too long, as the highest one."""
        if (queue := self._queues.get(model)) is None:
            return Priority.BATCH
        if now_s - queue.oldest_of_all().arrived_at_s >= self._policy.ageing_s:
            return Priority.INTERACTIVE
        return queue.best_class()

    def _oldest_ticket(self, model: str) -> int:
        return self._queues[model].oldest_of_all().ticket

    def _wanted_as_much(self, victim: str, queued_s: float) -> bool:
        """Whether too much waits for `victim` to give a place of its to a model with `queued_s` per place."""
        queue = self._queues.get(victim)
        if queue is None:
            return False
        warm_count = sum(victim in host.residents for host in self._hosts.values())
        return queue.gpu_s / warm_count * self._policy.rival_gain > queued_s

    def _is_coming(self, host: Host, model: str, now_s: float) -> bool:
        """Whether `model` is on its way into an instance, and not overdue: that load may hang."""
        swap = host.swap
        if swap is None or swap.model != model:
            return False
        overdue_s = _OVERDUE_LOADS * self._load_s(host, model) + _OVERDUE_S
        return swap.phase is not Phase.LOADING or now_s - swap.began_s <= overdue_s

    def _remaining_s(self, host: Host, now_s: float) -> float:
        assert host.swap is not None
        return max(0.0, host.swap.began_s + self._load_s(host, host.swap.model) - now_s)

    def _load_s(self, host: Host, model: str) -> float:
        return self._estimates.load_s(model, host.name, vram_bytes=host.models.get(model, 0))

    def _blocked(self, host: Host, model: str, now_s: float) -> bool:
        return self._failures.get((host.name, model), (0, 0.0))[1] > now_s
