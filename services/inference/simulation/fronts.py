"""What stands before the machines: the production scheduler, and what it is compared with."""

from collections import Counter, OrderedDict
from collections.abc import Callable
from math import inf
from typing import assert_never

from services.inference.core.decisions import Cause, Dispatch, Displace, Expire, Fail, Load, Unload
from services.inference.core.estimates import Estimates
from services.inference.core.hosts import Capacity
from services.inference.core.jobs import Job
from services.inference.core.recording import RecordingScheduler
from services.inference.core.scheduler import Scheduler
from services.inference.core.usage import Usage
from services.inference.errors import DeadlineUnreachable, QueueFull
from services.inference.simulation.calls import Verdict
from services.inference.simulation.parts import Event, Finished, Left, Refused, Unloaded
from services.inference.simulation.prompts import Prompt
from services.inference.simulation.world import FIRST_LOAD_ID, World


class Gateway:
    """The production scheduler, carried out as the engine does."""

    def __init__(self, world: World, *, log: Callable[[str], None] | None = None) -> None:
        """`log` is given the decision log, in the format of a recording."""
        self.loads: Counter[str] = Counter()
        policy = world.fleet.policy
        self._world = world
        self._places = {machine.spec.name: place for place, machine in enumerate(world.machines)}
        self.scheduler = (
            Scheduler(policy, Estimates())
            if log is None
            else RecordingScheduler(policy, Estimates(), write=log, alias=str)
        )
        self._loading: dict[int, tuple[str, str, float]] = {}  # Instance, model, and since when.
        self._unloading: set[tuple[int, str]] = set()
        self._changed = True
        self._wakeup_s = inf  # As long as nothing has changed.
        self._models = {model.name: model.vram_bytes for model in world.fleet.models.values()}
        self._slots_of = {
            model.name: model.parallel_max for model in world.fleet.models.values() if model.parallel_max
        }

    def arrive(self, number: int, prompt: Prompt) -> None:
        arrival, now_s = self._world.calls[number].arrival, self._world.now_s
        deadline_s = inf if arrival.deadline_s is None else arrival.deadline_s
        job = Job(
            ticket=number,
            tenant=arrival.tenant,
            model=arrival.model,
            priority=arrival.priority,
            arrived_at_s=now_s,
            expires_at_s=now_s + min(arrival.queue_timeout_s, deadline_s),
            deadline_at_s=now_s + deadline_s,
            prompt_token_count=arrival.prompt_tokens,
            output_token_max=arrival.output_max,
            prefixes=prompt.prefixes,
        )
        self._changed = True
        try:
            self.scheduler.submit(job, now_s)
        except QueueFull:
            self._world.close(number, Verdict.QUEUE_FULL)
        except DeadlineUnreachable:
            self._world.close(number, Verdict.DEADLINE_UNREACHABLE)

    def leave(self, number: int) -> None:
        self.scheduler.withdraw(number)
        self._changed = True

    def happened(self, place: int, event: Event) -> None:
        now_s = self._world.now_s
        match event:
            case Finished() if event.id < FIRST_LOAD_ID:
                usage = Usage(
                    prompt_token_count=event.prompt_token_count,
                    prompt_s=event.prompt_s,
                    output_token_count=event.output_token_count,
                    output_s=event.output_s,
                    load_s=event.load_s,
                )
                settled = self.scheduler.end(event.id, usage, now_s)
                self.loads[Cause.SURPRISE] += settled.surprise
            case Left() | Refused() if event.id < FIRST_LOAD_ID:
                self.scheduler.end(event.id, None, now_s)
            case Finished() | Refused() | Left():
                instance, model, began_s = self._loading.pop(event.id)
                ok = isinstance(event, Finished)
                self.scheduler.loaded(instance, model, ok=ok, load_s=now_s - began_s, now_s=now_s)
            case Unloaded() if (place, event.model) in self._unloading:
                self._unloaded(place, event.model)
            case _:
                return
        self._changed = True

    def look(self, place: int) -> None:
        machine, now_s = self._world.machines[place], self._world.now_s
        capacity = Capacity(
            instance=machine.spec.name,
            slots=machine.spec.parallel,
            models=self._models,
            loaded={resident.model: resident.vram_bytes for resident in machine.residents(now_s)},
            slots_of=self._slots_of,
            vram_bytes=machine.spec.vram_bytes,
            asked_at_s=now_s,
        )
        self.scheduler.observe(capacity, now_s)
        self._changed = True

    def act(self) -> None:
        now_s = self._world.now_s
        if not self._changed and self._wakeup_s > now_s:
            return
        self._changed = False
        for decision in self.scheduler.decide(now_s):
            match decision:
                case Dispatch(job, instance):
                    self._world.offer(job.ticket, self._places[instance])
                case Expire(job):
                    late = now_s >= job.deadline_at_s
                    self._world.close(job.ticket, Verdict.DEADLINE_MISSED if late else Verdict.QUEUE_TIMEOUT)
                case Displace(job):
                    self._world.close(job.ticket, Verdict.DISPLACED)
                case Fail(job):
                    self._world.close(job.ticket, Verdict.INSTANCE_FAILED)
                case Load(instance, model, cause):
                    self.loads[cause] += 1
                    number = self._world.load(self._places[instance], model)
                    self._loading[number] = (instance, model, now_s)
                case Unload(instance, model):
                    self._unload(self._places[instance], model)
                case _:
                    assert_never(decision)
        at_s = self.scheduler.next_wakeup_s()
        self._wakeup_s = inf if at_s is None else at_s

    def wakeup_s(self) -> float:
        return self._wakeup_s

    def _unload(self, place: int, model: str) -> None:
        self._unloading.add((place, model))
        held = self._world.machines[place].residents(self._world.now_s)
        if any(resident.model == model for resident in held):
            self._world.unload(place, model)
        else:
            self._unloaded(place, model)

    def _unloaded(self, place: int, model: str) -> None:
        self._unloading.discard((place, model))
        instance = self._world.machines[place].spec.name
        self.scheduler.unloaded(instance, model, self._world.now_s)
        self._changed = True


class RoundRobin:
    """No gateway: every request goes to the next machine at once, and waits inside it."""

    def __init__(self, world: World) -> None:
        self.loads: Counter[str] = Counter()
        self._world = world
        self._next = 0

    def arrive(self, number: int, prompt: Prompt) -> None:  # noqa: ARG002 - The machine has it.
        self._world.offer(number, self._next)
        self._next = (self._next + 1) % len(self._world.machines)

    def leave(self, number: int) -> None:
        raise AssertionError(f"{number} was offered as it came")

    def happened(self, place: int, event: Event) -> None: ...

    def look(self, place: int) -> None: ...

    def act(self) -> None:
        self.loads["request"] = sum(machine.load_count for machine in self._world.machines)

    def wakeup_s(self) -> float:
        return inf


class Fifo:
    """One line per model, first come, first served, without a bound; who has a free slot takes the next one, and
    loads what it needs for it.
    """

    def __init__(self, world: World) -> None:
        self.loads: Counter[str] = Counter()
        self._world = world
        self._lines: dict[str, OrderedDict[int, None]] = {}
        self._free = [machine.spec.parallel for machine in world.machines]

    def arrive(self, number: int, prompt: Prompt) -> None:  # noqa: ARG002 - The machine has it.
        self._lines.setdefault(self._model(number), OrderedDict())[number] = None

    def leave(self, number: int) -> None:
        del self._lines[self._model(number)][number]

    def happened(self, place: int, event: Event) -> None:
        if isinstance(event, Finished | Left | Refused):
            self._free[place] += 1

    def look(self, place: int) -> None: ...

    def act(self) -> None:
        while (place := max(range(len(self._free)), key=lambda place: (self._free[place], -place))) >= 0:
            waiting = [line for line in self._lines.values() if line]
            if not self._free[place] or not waiting:
                break
            line = min(waiting, key=lambda line: next(iter(line)))
            self._free[place] -= 1
            self._world.offer(line.popitem(last=False)[0], place)
        self.loads["request"] = sum(machine.load_count for machine in self._world.machines)

    def wakeup_s(self) -> float:
        return inf

    def _model(self, number: int) -> str:
        return self._world.calls[number].arrival.model
