"""Which waiting job runs on which instance, which model lives where, and when to refuse.

No clock, no I/O, no randomness: callers pass `now_s`, which never falls, and carry out what `decide` returns.
The same calls give the same decisions, so a failing simulation replays from its seed.

Who goes next (core/turns.py, core/queues.py, core/shares.py): the highest class; in it, the tenant that has
had the fewest GPU-seconds for its weight; of that tenant, the oldest job. A bounded share of placements goes
to those that have waited longest (Policy.ageing_s), so that no class starves. Where (core/placement.py): of
the instances that have the model loaded and a slot free, the one that would be done first. What is loaded
(core/residency.py) is a plan of its own; nothing is ever sent to an instance that would have to load for it.

Invariants, each asserted by tests/simulation/test_scheduler.py:
  I1  A job is placed only on a free slot of an instance that has its model loaded and that it need not
      avoid: one that failed it, as long as another one is ready that has its model. Shrinking an instance never interrupts what runs there.
  I2  At most `waiting_max` jobs wait for a model, and of the batch class at most its share of them.
  I3  After `decide`, no job waits that could be placed, but those that wait for the one instance that holds
      their prefix, each for a bounded time.
  I4  No job is placed while one of a higher class could take its slot, but the aged.
  I5  Two tenants of a class that both wait all the time get GPU-seconds by their weights, to within what one
      job of each costs and what predictions are off for what is running.
  I6  Nothing is decided twice, nothing after it was withdrawn, and no job waits past its expiry.
  I7  An instance loads one model at a time, and only once those that must go are idle and unloaded.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf

from services.inference.core.aside import Aside
from services.inference.core.decisions import Decision, Dispatch, Displace, Expire, Fail, Load
from services.inference.core.estimates import Estimates
from services.inference.core.expiries import Expiries
from services.inference.core.forecast import Forecast
from services.inference.core.hosts import Capacity, Host, Running
from services.inference.core.jobs import Job, Priority
from services.inference.core.meter import Books, Charge, Meter
from services.inference.core.placement import Placement
from services.inference.core.policy import Policy
from services.inference.core.prefixes import Prefixes
from services.inference.core.queues import Queue
from services.inference.core.residency import Residency
from services.inference.core.shares import Shares
from services.inference.core.turns import next_aged_turn, next_turn
from services.inference.core.usage import Usage
from services.inference.errors import DeadlineUnreachable, QueueFull

_PREFIXES_KEPT = 256  # Per instance and model; Ollama keeps what its slots hold, and more in memory.
_REVIEW_EVERY_S = 0.001  # Between two models: what is due at one moment must come to an end.
# Ollama counts a few milliseconds of every request as loading.
_SURPRISE_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A waiting job's place in its queue, as far as can be foreseen."""

    job: Job
    ahead_count: int
    wait_s: float  # inf if nothing can be said.


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What a job that ran came to."""

    charge: Charge
    surprise: bool  # Whether the instance loaded the model for it, unasked.


class Scheduler:
    """The queues of all models, the slots and the memory of all instances."""

    def __init__(self, policy: Policy, estimates: Estimates) -> None:
        self._policy = policy
        self._estimates = estimates
        self._shares = {priority: Shares(policy) for priority in Priority}
        self._queues: dict[str, Queue] = {}
        self._waiting: dict[int, Job] = {}
        self._foreseen: dict[int, float] = {}  # The waits that were predicted for them, uncorrected.
        self._expiries = Expiries(self._waiting.__contains__)
        self._hosts: dict[str, Host] = {}
        self._open: dict[str, Host] = {}  # Those with a free slot.
        self._running: dict[int, Host] = {}
        self.residency = Residency(policy, estimates, self._hosts, self._queues)
        self._forecast = Forecast(estimates, self.residency, self._hosts, self._queues)
        self._aside = Aside(self._hosts, self._queues)
        self._meter = Meter()
        self._prefixes = Prefixes(kept_max=_PREFIXES_KEPT)
        self._placement = Placement(policy, self._forecast, self._prefixes, self._hosts)
        self._displaced: list[Displace] = []
        self._unplanned: set[str] = set()  # Models that nobody may have loaded.
        self._unreviewed: list[str] = []  # Models whose turn to be planned for has come, the next one last.
        self._refused: set[str] = set()  # Models whose jobs were refused since the last plan.
        self._plan_at_s = 0.0
        self._review_at_s = 0.0

    # What happens

    def submit(self, job: Job, now_s: float) -> None:
        """Queue `job`, or raise QueueFull or DeadlineUnreachable: an early refusal beats a late timeout.

        It goes to the end of its tenant's line. One that comes back from an instance to avoid keeps its
        place, and is not refused for want of time: it was promised an answer.
        """
        queue = self._queues.get(job.model) or Queue(self._policy, self._shares)
        wait_s = self._forecast.wait_s(job, queue, now_s)
        gives_way = self._giving_way(job, queue, wait_s)
        if not job.avoid:
            self._check_time(job, wait_s, now_s)
        if gives_way is not None:
            self._unqueue(gives_way.job)
            self._displaced.append(gives_way)
        self._queues[job.model] = queue
        self._shares[job.priority].enter(job.tenant)
        queue.add(job, self._forecast.cost_s(job))
        self._waiting[job.ticket] = job
        self._foreseen[job.ticket] = wait_s / self._estimates.wait_correction(job.model)
        self._expiries.add(job.ticket, job.expires_at_s)
        if len(queue) == 1 or job.avoid:  # What waits already is looked over soon.
            self._unplanned.add(job.model)
        if job.avoid:
            self._aside.add(job.model)
            self._unplanned |= self._aside.let_return()

    def withdraw(self, ticket: int) -> None:
        """Forget a job that waits. Idempotent."""
        self._displaced = [each for each in self._displaced if each.job.ticket != ticket]
        if job := self._waiting.get(ticket):
            self._unqueue(job)

    def end(self, ticket: int, usage: Usage | None, now_s: float) -> Settled:
        """Take back the slot of a job that runs no longer. `usage` is what its instance says of a whole answer."""
        host = self._running.pop(ticket)
        running = host.running.pop(ticket)
        self._reopen(host)
        job = running.job
        charge = self._meter.stop(
            ticket, now_s, work_s=None if usage is None else usage.prompt_s + usage.output_s
        )
        if job.model in host.residents:
            host.residents[job.model].used_s = now_s
        if self._shares[job.priority].correct(job.tenant, charge.gpu_s - running.cost_s):
            for queue in self._queues.values():
                queue.resort(job.priority, job.tenant)
        if usage is None:
            return Settled(charge=charge, surprise=False)
        self._estimates.learn_work(
            job.model,
            host.name,
            job.tenant,
            usage=usage,
            reused_token_count=running.reused_token_count,
            batch=charge.batch,
        )
        return Settled(charge=charge, surprise=usage.load_s >= _SURPRISE_S)

    def observe(self, capacity: Capacity, now_s: float) -> None:
        """Replace what is known of an instance."""
        host = self._hosts.get(capacity.instance)
        if host is None:
            host = self._hosts[capacity.instance] = Host(capacity.instance)
            self._meter.watch(host.name, now_s)
        host.observe(capacity, now_s)
        for model in capacity.models:
            if model not in host.residents:
                self._prefixes.forget(host.name, model)
        if not host.slots:
            self.residency.forget(host)
        self._reopen(host)
        self._forecast.hosts_changed()
        self._unplanned.update(model for model in self._queues if model in host.models)
        self._unplanned |= self._aside.let_return()

    def loaded(self, instance: str, model: str, *, ok: bool, load_s: float, now_s: float) -> None:
        """Take note that a Load was carried out, or failed."""
        host = self._hosts[instance]
        self._meter.load_ended(instance, now_s)
        if ok:
            self._estimates.learn_load(model, instance, load_s)
            self.residency.loaded(host, model, now_s)
        else:
            self.residency.failed(host, model, now_s)
        self._unplanned.update(self._queues)

    def unloaded(self, instance: str, model: str, now_s: float) -> None:
        """Take note that an Unload was carried out, or failed, which a look will show."""
        self._hosts[instance].unloaded(model, now_s)
        self._prefixes.forget(instance, model)

    # What is decided

    def decide(self, now_s: float) -> list[Decision]:
        """Return what is to be done now, in order. It counts as done."""
        decisions: list[Decision] = [*self._displaced]
        self._displaced.clear()
        while (ticket := self._expiries.pop_due(now_s)) is not None:
            job = self._waiting[ticket]
            if job.expires_at_s > now_s:
                continue  # It came back since, with more time.
            self._unqueue(job)
            decisions.append(Expire(job))
        self._aside.release(now_s)
        decisions.extend(self._plan(now_s))
        for step in self.residency.advance(now_s):
            if isinstance(step, Load):
                self._meter.load_began(step.instance, now_s)
            decisions.append(step)
        decisions.extend(self._place(now_s))
        return decisions

    def next_wakeup_s(self) -> float | None:
        """Return when `decide` has something to do even if nothing happens until then."""
        times = [at_s for at_s in (self._expiries.next_s(),) if at_s is not None]
        if self._unreviewed:
            times.append(self._review_at_s)
        elif self._queues:
            times.append(self._plan_at_s)  # No review begins while another one is under way.
        times.extend(self._aside.times_s())
        return min(times, default=None)

    # What is asked

    def busy(self, instance: str) -> Mapping[str, int]:
        """Return the slots in use on an instance, by model."""
        host = self._hosts.get(instance)
        return Counter(run.job.model for run in host.running.values()) if host else {}

    def prompt_left_s(self, ticket: int, now_s: float) -> float:
        """Predict for how long an instance goes on reading the prompt of a job that runs."""
        return max(0.0, self._running[ticket].running[ticket].prompt_read_at_s - now_s)

    def reading_s(self, ticket: int) -> float:
        """Predict how long an instance takes to read the whole prompt of a job that runs there; inf unless it was
        seen to read for that model.
        """
        host = self._running[ticket]
        job = host.running[ticket].job
        if not self._estimates.reads(job.model, host.name):
            return inf
        return self._estimates.prefill_s(job.model, host.name, job.prompt_token_count)

    def load_s(self, instance: str, model: str) -> float:
        """Predict how long an instance would take to load a model."""
        need_bytes = self._hosts[instance].models.get(model, 0)
        return self._estimates.load_s(model, instance, vram_bytes=need_bytes)

    def is_first(self, job: Job) -> bool:
        """Whether a job waits, and nobody else waits for its model."""
        return job.ticket in self._waiting and len(self._queues[job.model]) == 1

    def models_waited_for(self) -> list[str]:
        """Return the models that have a queue, in order."""
        return sorted(self._queues)

    def line(self, model: str) -> list[Job]:
        """Return the jobs that wait for `model`, in the order in which they would go."""
        return queue.line() if (queue := self._queues.get(model)) else []

    def places(self, model: str, now_s: float) -> list[Place]:
        """Return the same with what can be foreseen. O(n log n): not for every change."""
        queue = self._queues.get(model)
        if queue is None:
            return []
        line = queue.line()
        start_s, rate = self._forecast.service(line[0], now_s)
        places, before_s = [], 0.0
        for ahead_count, job in enumerate(line):
            wait_s = (start_s + before_s / rate) * self._estimates.wait_correction(model)
            places.append(Place(job=job, ahead_count=ahead_count, wait_s=wait_s))
            before_s += queue.cost_s(job.ticket)
        return places

    def queued_count(self, instance: str) -> float:
        """Return how many wait for an instance, if each queue is shared out over those that have its model."""
        host = self._hosts.get(instance)
        count = 0.0
        for model in host.residents if host is not None else ():
            if queue := self._queues.get(model):
                count += len(queue) / sum(model in other.residents for other in self._hosts.values())
        return count

    def books(self, now_s: float) -> Mapping[str, Books]:
        """Return who had how much of each instance."""
        return self._meter.books(now_s)

    # Admission

    def _giving_way(self, job: Job, queue: Queue, wait_s: float) -> Displace | None:
        """Return who must give way to `job`; raise QueueFull if nobody need."""
        policy = self._policy
        batch_max = max(1, int(policy.waiting_max * policy.batch_waiting_share))
        retry_after_s = None if wait_s == inf else max(1.0, wait_s)
        batch_full = job.priority is Priority.BATCH and queue.count(Priority.BATCH) >= batch_max
        if not batch_full and len(queue) < policy.waiting_max:
            return None
        self._refused.add(job.model)
        gives_way = queue.displaceable(job, within_class=batch_full)
        bound = batch_max if batch_full else policy.waiting_max
        if gives_way is None:
            raise QueueFull(waiting_max=bound, retry_after_s=retry_after_s)
        return Displace(gives_way, bound)

    def _check_time(self, job: Job, wait_s: float, now_s: float) -> None:
        """Refuse what would be late, by what was measured: nobody is refused for a guess."""
        remaining_s = job.deadline_at_s - now_s
        spare_s = max(0.0, remaining_s - self._forecast.answer_s(job))
        limit_s = min(self._policy.wait_share_max * spare_s, job.expires_at_s - now_s)
        if 0 < wait_s < inf and wait_s > limit_s and self._estimates.known(job.model):
            self._refused.add(job.model)
            raise DeadlineUnreachable(
                estimated_wait_s=f"{wait_s:.3f}",
                remaining_s=f"{max(0.0, min(remaining_s, job.expires_at_s - now_s)):.3f}",
                retry_after_s=max(0.1, wait_s - limit_s),
            )

    # Placement

    def _place(self, now_s: float) -> Iterator[Dispatch]:
        hosts_of = self._placement.candidates(self._open.values(), self._queues)
        while hosts_of:
            turn = next_aged_turn(self._queues, hosts_of, self._policy, now_s) or next_turn(
                self._queues, hosts_of
            )
            if turn is None:
                return
            host = self._placement.choose(turn.job, self._queues[turn.job.model], turn.hosts, now_s)
            if host is None:
                self._aside.add(turn.job.model)
                continue  # It waits for an instance that holds its prefix.
            host.placed_since_aged_count = 0 if turn.aged else host.placed_since_aged_count + 1
            yield self._dispatch(turn.job, host, now_s)
            hosts_of = {
                model: left
                for model, hosts in hosts_of.items()
                if model in self._queues
                and (left := [other for other in hosts if other is not host or host.takes(model)])
            }

    def _dispatch(self, job: Job, host: Host, now_s: float) -> Dispatch:
        reused = self._placement.reusable(job).get(host.name, 0)
        slot_s = self._forecast.slot_s(job, host.name, reused_token_count=reused, batch=len(host.running) + 1)
        foreseen_s = self._foreseen[job.ticket]
        if 0 < foreseen_s < inf and not job.avoid:
            waited_s = now_s - job.arrived_at_s
            self._estimates.learn_wait(job.model, predicted_s=foreseen_s, actual_s=waited_s)
        cost_s = self._queues[job.model].cost_s(job.ticket)
        self._shares[job.priority].charge(job.tenant, cost_s)
        self._unqueue(job)
        prompt_s = self._estimates.prefill_s(job.model, host.name, max(0, job.prompt_token_count - reused))
        host.running[job.ticket] = Running(job, cost_s, reused, now_s + prompt_s, now_s + slot_s)
        host.residents[job.model].used_s = now_s
        self._running[job.ticket] = host
        self._meter.start(host.name, job.ticket, job.tenant, now_s)
        if job.prefixes:
            self._prefixes.remember(host.name, job.model, job.prefixes)
        self._reopen(host)
        return Dispatch(job, host.name)

    # Upkeep

    def _plan(self, now_s: float) -> Iterator[Fail]:
        """Look over who should have which model: at once where nobody may have it, else now and then."""
        if now_s >= self._plan_at_s and not self._unreviewed:
            self.residency.review()
            self._unreviewed = self.residency.by_right(self._queues, now_s)[::-1]
            self._plan_at_s = now_s + self._policy.plan_every_s
        if self._unreviewed and now_s >= self._review_at_s:
            # One at a time, so that no decision has to wait for the whole fleet's plan.
            self._unplanned.add(self._unreviewed.pop())
            self._review_at_s = now_s + _REVIEW_EVERY_S
        for model in sorted(self._refused):
            self.residency.prepare(model, now_s)
        self._refused.clear()
        models = self.residency.by_right(self._unplanned & self._queues.keys(), now_s)
        self._unplanned.clear()
        for model in models:
            queue = self._queues[model]
            self.residency.plan(model, now_s)
            for beside in queue.beside:
                if beside.avoid:
                    self.residency.plan(model, now_s, avoid=beside.avoid)
            if self.residency.hopeless(model, now_s):
                for job in queue.line():
                    self._unqueue(job)
                    yield Fail(job)

    def _unqueue(self, job: Job) -> None:
        queue = self._queues[job.model]
        queue.remove(job.ticket)
        if not len(queue):
            del self._queues[job.model]
        del self._waiting[job.ticket], self._foreseen[job.ticket]
        self._shares[job.priority].leave(job.tenant)

    def _reopen(self, host: Host) -> None:
        if host.free > 0:
            self._open[host.name] = host
        else:
            self._open.pop(host.name, None)
