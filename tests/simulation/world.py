"""A fleet's life in virtual time around a scheduler, with books of its own: what it believes is never asked."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Any

from services.common.errors import MeshError
from services.inference.core.decisions import Dispatch, Displace, Expire, Fail, Load, Unload
from services.inference.core.estimates import Estimates
from services.inference.core.hosts import Capacity
from services.inference.core.jobs import Job
from services.inference.core.policy import Policy
from services.inference.core.scheduler import Scheduler
from services.inference.core.usage import Usage
from services.inference.errors import DeadlineUnreachable, QueueFull
from tests.simulation.arrivals import TENANTS, some_job
from tests.simulation.invariants import avoids, check, check_turn, gives_way, is_full, let_return, waiting_for
from tests.simulation.journal import entry
from tests.simulation.machines import LOAD_BYTES_PER_S, PREFILL_TOKEN_S, TOKEN_S, Machine, Run, Spec


class World:
    """Carries out what the scheduler decides, checks it, and tells it what happened."""

    def __init__(
        self,
        seed: int,
        specs: Sequence[Spec],
        policy: Policy,
        *,
        troubles: bool = True,
        made: Callable[[Policy, Estimates], Scheduler] = Scheduler,
    ) -> None:
        self.random, self.now_s, self.tickets = random.Random(seed), 0.0, count()
        self.policy, self.troubles = policy, troubles
        self.estimates = Estimates()
        self.scheduler = made(policy, self.estimates)
        self.machines = {spec.name: Machine(spec) for spec in specs}
        self.models = sorted({model for spec in specs for model in spec.models})
        self.waiting: dict[int, Job] = {}
        self.running: dict[int, str] = {}
        self.returning: set[int] = set()  # Who may run again where they failed.
        self.displaced: list[Job] = []  # Who must give way next.
        self.on_placed: Callable[[Job, Machine], None] = lambda _job, _machine: None
        self.failed: set[str] = set()  # Models of which a load has failed.
        self.measured: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.batch_cost = 0.1
        self.turned_out: list[tuple[str, float, int]] = []  # Models, how long they were there, who waited.
        self.placed: list[tuple[Job, str]] = []
        self.out_of_turn_count = 0
        # When those that may wait for their prefix first could run.
        self.passed_over_s: dict[int, float] = {}
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.log: list[str] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._event_ids = count()
        for machine in self.machines.values():
            self._tell_capacity(machine, machine.look(0.0))
            self._look_later(machine)
        self.settle()

    # Time

    def step(self, mean_s: float = 0.5) -> None:
        self.advance(self.random.expovariate(1 / mean_s))
        actions: dict[Callable[[], object], int] = {self.arrive: 14, self.burst: 1, self.leave: 3}
        if self.troubles:
            actions |= {self.flap: 1, self.lose_model: 1, self.be_used_directly: 1}
        self.random.choices(list(actions), weights=list(actions.values()))[0]()
        self.settle()

    def advance(self, passed_s: float) -> None:
        end_s = self.now_s + passed_s
        while True:
            wakeup_s = self.scheduler.next_wakeup_s()
            event_s = self._events[0][0] if self._events else inf
            at_s = min(event_s, inf if wakeup_s is None else wakeup_s)
            if at_s > end_s:
                break
            self._pass_to(at_s)
            if event_s <= at_s:
                heappop(self._events)[2]()
            self.settle()
        self._pass_to(end_s)

    def at(self, delay_s: float, happens: Callable[[], None]) -> None:
        heappush(self._events, (self.now_s + delay_s, next(self._event_ids), happens))

    def _pass_to(self, at_s: float) -> None:
        for machine in self.machines.values():
            machine.spend(at_s - self.now_s)
        self.now_s = at_s

    def tell(self, method: str, *args: Any, **named: Any) -> Any:
        self.calls.append((method, args, named))
        return getattr(self.scheduler, method)(*args, **named)

    # Callers

    def arrive(self, **given: Any) -> bool:
        return self.submit(some_job(self.random, next(self.tickets), self.now_s, self.models, **given))

    def burst(self) -> None:
        tenant, model = self.random.choice(TENANTS), self.random.choice(self.models)
        for _ in range(self.policy.waiting_max + 2):
            self.arrive(tenant=tenant, model=model)
            if self.random.random() < 0.5:
                self.settle()

    def submit(self, job: Job) -> bool:
        before = waiting_for(self, job.model)
        full = is_full(self, job)
        try:
            self.tell("submit", job, self.now_s)
        except QueueFull as error:
            assert full, "I2: refused with places free"
            assert not any(gives_way(self, other, job) for other in before), "I2: refused for a worse one"
            self.refused(error)
            return False
        except DeadlineUnreachable as error:
            assert job.model in self.measured, "refused for a guess"
            assert not job.avoid, "it was promised an answer"
            self.refused(error)
            return False
        if full:
            left = {other.ticket for other in self.scheduler.line(job.model)}
            (loser,) = (other for other in before if other.ticket not in left)
            assert gives_way(self, loser, job), "I2: pushed out by who has no better right"
            self.displaced.append(loser)
        self.waiting[job.ticket] = job
        self.returning.discard(job.ticket)
        let_return(self)
        return True

    def refused(self, error: MeshError) -> None:
        assert error.retry_after_s is None or error.retry_after_s > 0
        self.counts[error.reason] += 1
        self.log.append(entry(self.now_s, error))

    def leave(self) -> None:
        if everyone := [*self.waiting, *self.running]:
            self.cancel(self.random.choice(everyone))

    def cancel(self, ticket: int) -> None:
        if ticket in self.running:
            self._end(ticket, None)
        self.waiting.pop(ticket, None)
        self.displaced = [job for job in self.displaced if job.ticket != ticket]
        for _ in range(2):  # It is idempotent.
            self.tell("withdraw", ticket)

    # Instances

    def flap(self) -> None:
        machine = self.random.choice(list(self.machines.values()))
        if not machine.slots:
            return
        if self.random.random() < 0.3:  # It only changes its mind about its slots.
            self._tell_capacity(
                machine, replace(machine.look(self.now_s), slots=self.random.choice([1, 2, 4]))
            )
            return
        machine.epoch += 1
        if self.random.random() < 0.6:
            self._restart(machine)
        self._tell_capacity(machine, replace(machine.look(self.now_s), slots=0, loaded={}))
        machine.sure.clear()
        self._look_later(machine, self.random.expovariate(1 / 4))

    def _restart(self, machine: Machine) -> None:
        for ticket in list(machine.running):
            self._fail(ticket)
        for model in list(machine.resident):
            machine.evict(model)
            machine.gone[model] = self.now_s
        if machine.loading:
            self._loaded(machine, machine.loading, took_s=0.0, ok=False)

    def lose_model(self) -> None:
        machine = self.random.choice(list(self.machines.values()))
        if idle := [model for model in machine.resident if not machine.uses(model)]:
            model = self.random.choice(sorted(idle))
            if model not in machine.unloading:
                machine.evict(model)
                machine.gone[model] = self.now_s

    def be_used_directly(self) -> None:
        """Somebody goes round the gateway."""
        machine = self.random.choice(list(self.machines.values()))
        model = self.random.choice(sorted(machine.spec.models))
        if machine.loading or machine.unloading or model in machine.resident:
            return
        self._load_unasked(machine, model)
        machine.untold[model] = self.now_s
        if self.random.random() < 0.3:
            machine.foreign.add(model)
        else:
            machine.gone.pop(model, None)

    def _load_unasked(self, machine: Machine, model: str) -> None:
        for other in machine.make_room(model):
            machine.gone[other] = self.now_s
        machine.hold(model, self.now_s)

    def _look_later(self, machine: Machine, delay_s: float | None = None) -> None:
        epoch = machine.epoch

        def look() -> None:
            if machine.epoch == epoch:
                capacity = machine.look(self.now_s)
                self.at(self.random.uniform(0.0, 0.3), lambda: tell(capacity))

        def tell(capacity: Capacity) -> None:
            if machine.epoch == epoch:
                self._tell_capacity(machine, capacity)
                self._look_later(machine)

        self.at(self.random.uniform(0.5, 2.0) if delay_s is None else delay_s, look)

    def _tell_capacity(self, machine: Machine, capacity: Capacity) -> None:
        self.tell("observe", capacity, self.now_s)
        machine.told(capacity)
        let_return(self)

    # What is decided

    def settle(self) -> None:
        """Decide until nothing more is due."""
        for _ in range(2 + len(self.models)):
            self._decide()
            wakeup_s = self.scheduler.next_wakeup_s()
            if wakeup_s is None or wakeup_s > self.now_s:
                return check(self)
        raise AssertionError("it is never done")

    def _decide(self) -> None:
        for decision in self.tell("decide", self.now_s):
            self.log.append(entry(self.now_s, decision))
            self.counts[type(decision).__name__] += 1
            match decision:
                case Displace(job):
                    assert job == self.displaced.pop(0), "I6"
                    assert self.waiting.pop(job.ticket) == job, "I6"
                case Expire(job):
                    assert self.waiting.pop(job.ticket) == job, "I6"
                    assert job.expires_at_s <= self.now_s, "I6: expired too early"
                case Fail(job):
                    assert self.waiting.pop(job.ticket) == job, "I6"
                    assert job.model in self.failed
                case Dispatch(job, name):
                    self._dispatch(job, self.machines[name])
                case Load(name, model, _):
                    self._load(self.machines[name], model)
                case Unload(name, model):
                    self._unload(self.machines[name], model)

    def _dispatch(self, job: Job, machine: Machine) -> None:
        assert self.waiting[job.ticket] == job, "I6"  # KeyError: decided twice, or after leaving.
        assert job.expires_at_s > self.now_s, "I6: placed after its expiry"
        assert machine.free_for(job.model) > 0, "I1: no slot free"
        assert not avoids(self, job, machine), "I1: to be avoided"
        assert job.model not in machine.unloading
        check_turn(self, job, machine)
        self.on_placed(job, machine)
        del self.waiting[job.ticket]
        self.passed_over_s.pop(job.ticket, None)
        self.running[job.ticket] = machine.spec.name
        self.placed.append((job, machine.spec.name))
        run = Run(
            job,
            worked=self.random.choice([1.0, 0.9]),
            began_s=self.now_s,
            fails=self.troubles and self.random.random() < 0.1,
        )
        if not machine.has(job.model):
            assert job.model in machine.gone, "I1: not loaded there, and it was told so"
            del machine.gone[job.model]
            machine.foreign.discard(job.model)
            machine.untold.pop(job.model, None)
            self._load_unasked(machine, job.model)
            self.counts["surprise"] += 1
            run.load_s = machine.spec.models[job.model] / LOAD_BYTES_PER_S
        machine.running[job.ticket] = run
        machine.hold(job.model, self.now_s)
        lasts_s = run.load_s + self.work_s(job, len(machine.running))
        if run.fails:
            lasts_s *= self.random.random()
        self.at(lasts_s, lambda: self._finish(job.ticket, machine, run))

    def work_s(self, job: Job, batch: int) -> float:
        output_s = self.output_count(job) * TOKEN_S * (1 + self.batch_cost * (batch - 1))
        return job.prompt_token_count * PREFILL_TOKEN_S + output_s

    def output_count(self, job: Job) -> int:
        count = 20 + job.ticket * 7919 % 150
        return min(count, job.output_token_max or count)

    def _finish(self, ticket: int, machine: Machine, run: Run) -> None:
        if machine.running.get(ticket) is not run:
            return  # Its caller has left, or the instance has.
        if run.fails:
            self._fail(ticket)
            return
        usage = run.usage(self.now_s, output_token_count=self.output_count(run.job))
        self._end(ticket, usage)
        self.measured.add(run.job.model)

    def _end(self, ticket: int, usage: Usage | None) -> None:
        machine = self.machines[self.running.pop(ticket)]
        run = machine.running.pop(ticket)
        if run.job.model in machine.resident:
            machine.resident[run.job.model] = self.now_s
        machine.settle(run, usage, self.now_s)
        settled = self.tell("end", ticket, usage, self.now_s)
        assert settled.surprise == (usage is not None and run.load_s > 0)
        assert settled.charge.wall_s == self.now_s - run.began_s

    def _fail(self, ticket: int) -> None:
        name = self.running[ticket]
        job = self.machines[name].running[ticket].job
        self._end(ticket, None)
        if self.random.random() < 0.7:
            self.submit(replace(job, avoid=job.avoid | {name}, expires_at_s=job.deadline_at_s))

    def _load(self, machine: Machine, model: str) -> None:
        assert not machine.loading, "I7: two loads at once"
        assert not machine.unloading, "I7: those that must go are not gone"
        assert model not in machine.resident or model in machine.untold, "a reload"
        known = {other for other in machine.resident if other not in machine.untold} | {model}
        if machine.spec.known:
            assert len(known) == 1 or machine.needed(known) <= machine.spec.vram_bytes, "I7: over its memory"
        for other in machine.make_room(model):
            if other in machine.untold or machine.spec.known:
                machine.gone[other] = self.now_s
        machine.loading = model
        need_bytes = machine.spec.models[model]
        took_s = (need_bytes / LOAD_BYTES_PER_S) * self.random.uniform(0.8, 1.2)
        ok = not self.troubles or self.random.random() < 0.85
        epoch = machine.epoch

        def loaded() -> None:
            if machine.loading == model and machine.epoch == epoch:
                self._loaded(machine, model, took_s=took_s, ok=ok)
            elif machine.loading == model:  # It was away for a while, and loaded all the same.
                self._loaded(machine, model, took_s=took_s, ok=False)

        self.at(took_s, loaded)

    def _loaded(self, machine: Machine, model: str, *, took_s: float, ok: bool) -> None:
        machine.loading = ""
        machine.victims.clear()
        machine.loaded_at_s = self.now_s
        if not machine.spec.known:
            machine.sure.clear()
            machine.doubted_at_s = self.now_s
        if ok:
            machine.hold(model, self.now_s)
            machine.gone.pop(model, None)
            machine.untold.pop(model, None)
            machine.foreign.discard(model)
            machine.sure.add(model)
            self.measured.add(model)
        else:
            self.failed.add(model)
            if model in machine.resident:
                machine.untold[model] = self.now_s
        self.tell("loaded", machine.spec.name, model, ok=ok, load_s=took_s, now_s=self.now_s)

    def _unload(self, machine: Machine, model: str) -> None:
        assert not machine.uses(model), "I7: it still runs"
        assert model in machine.resident or model in machine.gone, "nothing to unload"
        assert not machine.loading
        stayed_s = self.now_s - machine.since.get(model, 0.0)
        self.turned_out.append((model, stayed_s, len(waiting_for(self, model))))
        machine.unloading.add(model)
        machine.victims.add(model)
        machine.sure.discard(model)

        def unloaded() -> None:
            machine.unloading.discard(model)
            if self.troubles and self.random.random() < 0.1 and model in machine.resident:
                machine.untold[model] = self.now_s  # It did not work, which a look will show.
            elif model in machine.resident:
                machine.evict(model)
            machine.gone.pop(model, None)
            self.tell("unloaded", machine.spec.name, model, self.now_s)

        self.at(self.random.uniform(0.0, 0.2), unloaded)
