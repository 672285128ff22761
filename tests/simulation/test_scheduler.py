"""A fleet's bad days in virtual time: bursts, walk-aways, flapping instances, failures. Replay: -k seed17.

The Fleet keeps its own books: a checker that asked the scheduler would believe its mistakes. These mutants of
services/inference/core were planted one by one, and each was caught here:

  places: a slot too many; a finished job keeps its slot; shrinking an instance forgets what runs there; the
    model is not checked; failed instances are not avoided; loaded models are not preferred; the fullest
    instance, or the last by name, goes first
  turns: priorities ignored; shares ignored; nobody is charged; the idle save up their share; the present never
    moves; one share for all classes; the youngest of a tenant first; a retry goes behind its younger siblings;
    a blocked job blocks its lane; one placement per decision
  bounds: one waiting place too many; one bound for all models together; withdrawn or expired jobs keep their
    place; withdrawn jobs are served; jobs expire a moment late, or never; the line ignores places in lanes

and these by tests/unit/test_inference_scheduler.py: deadlines are forgotten when their heap is compacted; a pause
wipes out what a tenant had; shares are remembered for ever.
"""

import random
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import count

from services.inference.core.scheduler import Capacity, Dispatch, Expire, Job, Priority, Scheduler
from services.inference.errors import QueueFull

Models = dict[str, frozenset[str]]

MIXED: Models = {
    "gpu-0": frozenset({"tiny:latest"}),
    "gpu-1": frozenset({"tiny:latest", "large:latest"}),
    "gpu-2": frozenset({"large:latest", "embed:latest"}),
}
ALIKE: Models = {"gpu-0": frozenset({"tiny:latest"}), "gpu-1": frozenset({"tiny:latest"})}
TENANTS = ("a", "b", "c")
STEPS = 300
Lane = tuple[str, Priority, str]  # Model, class and tenant.


class Fleet:
    """The world around a scheduler, with books of its own."""

    def __init__(self, seed: int, models: Models, *, waiting_max: int) -> None:
        self.random, self.now_s, self.tickets = random.Random(seed), 0.0, count()
        self.models, self.waiting_max = models, waiting_max
        self.model_names = sorted(frozenset[str]().union(*models.values()))
        self.scheduler = Scheduler(waiting_max=waiting_max)
        self.slots = dict.fromkeys(models, 0)
        self.loaded: dict[str, frozenset[str]] = dict.fromkeys(models, frozenset())
        self.waiting: dict[int, Job] = {}
        self.running: dict[int, tuple[Job, str]] = {}
        # What each lane was given while it and its rival both waited without a pause.
        self.given: defaultdict[tuple[Lane, Lane], int] = defaultdict(int)

    # What happens

    def step(self, *, failures: bool = True) -> None:
        self.pass_time()
        events = [self.arrive, self.burst, self.leave, self.finish, self.flap, self.fail]
        self.random.choices(events, weights=[10, 1, 2, 8, 1, int(failures)])[0]()
        self.settle()

    def pass_time(self) -> None:
        self.now_s += self.random.expovariate(2.0)
        expiries = [job.expires_at_s for job in self.waiting.values()]
        if expiries and self.random.random() < 0.2:
            self.now_s = min(expiries)  # To the very moment.

    def arrive(self, tenant: str | None = None) -> None:
        job = Job(
            ticket=next(self.tickets),
            tenant=tenant or self.random.choice(TENANTS),
            model=self.random.choice(self.model_names),
            priority=self.random.choice(list(Priority)),
            arrived_at_s=self.now_s,
            expires_at_s=self.now_s + self.random.uniform(0, 12),
        )
        self.submit(job)

    def burst(self) -> None:
        tenant = self.random.choice(TENANTS)
        for _ in range(self.waiting_max + 2):
            self.arrive(tenant)

    def submit(self, job: Job) -> bool:
        full = self.waiting_for(job.model) == self.waiting_max
        try:
            self.scheduler.submit(job)
        except QueueFull:
            assert full, "I2: refused with places free"
            return False
        assert not full, "I2: accepted beyond the bound"
        self.waiting[job.ticket] = job
        return True

    def leave(self) -> None:
        if everyone := [*self.waiting, *self.running]:
            self.withdraw(self.random.choice(everyone))

    def finish(self) -> None:
        if self.running:
            self.withdraw(self.random.choice(list(self.running)))

    def withdraw(self, ticket: int) -> None:
        self.scheduler.withdraw(ticket)
        self.scheduler.withdraw(ticket)  # Idempotent.
        self.waiting.pop(ticket, None)
        self.running.pop(ticket, None)
        self.forget_rivalries()

    def fail(self) -> None:
        """An instance fails a job, which comes back to be placed elsewhere."""
        if self.running:
            job, instance = self.running[self.random.choice(list(self.running))]
            self.withdraw(job.ticket)
            self.submit(replace(job, avoid=job.avoid | {instance}))

    def flap(self) -> None:
        name = self.random.choice(sorted(self.models))
        self.loaded[name] = frozenset(
            model for model in sorted(self.models[name]) if self.random.random() < 0.5
        )
        self.resize(name, self.random.choice([0, 1, 2, 4]))

    def resize(self, name: str, slots: int) -> None:
        self.slots[name] = slots
        self.scheduler.observe(
            Capacity(instance=name, slots=slots, models=self.models[name], loaded=self.loaded[name])
        )

    # What must hold

    def settle(self) -> list[Job]:
        """Carry out what the scheduler decides, and check it. Return what was placed, in order."""
        placed = []
        for decision in self.scheduler.decide(self.now_s):
            job = self.waiting.pop(decision.job.ticket)  # KeyError, I6: decided twice, or after leaving.
            match decision:
                case Expire(expired):
                    assert expired == job
                    assert job.expires_at_s <= self.now_s, "I6: expired too early"
                case Dispatch(dispatched, instance):
                    assert dispatched == job
                    placed.append(job)
                    self.check_place(job, instance)
                    self.check_turn(job, instance)
                    self.running[job.ticket] = (job, instance)
        assert all(job.expires_at_s > self.now_s for job in self.waiting.values()), (
            "I6: waits past its expiry"
        )
        assert not any(self.hosts(job) for job in self.waiting.values()), "I3"
        self.check_views()
        self.forget_rivalries()
        return placed

    def check_place(self, job: Job, instance: str) -> None:
        assert job.expires_at_s > self.now_s, "I6: placed after its expiry"
        hosts = self.hosts(job)
        assert instance in hosts, "I1"
        best = min(hosts, key=lambda name: (job.model not in self.loaded[name], -self.free(name), name))
        assert instance == best, "loaded, then freest, then first by name"

    def check_turn(self, job: Job, instance: str) -> None:
        """No job with a better right to this very slot was passed over."""
        for other in self.waiting.values():
            if instance not in self.hosts(other):
                continue
            assert other.priority >= job.priority, "I4"
            if (other.model, other.priority, other.tenant) == (job.model, job.priority, job.tenant):
                assert job.avoid or other.ticket > job.ticket, "the oldest of a tenant goes first"
        rivals = {lane_of(other) for other in self.waiting.values() if other.priority == job.priority}
        for rival in rivals - {lane_of(job)}:
            self.given[lane_of(job), rival] += 1

    def check_shares(self) -> None:
        for (mine, theirs), given in self.given.items():
            assert given - self.given.get((theirs, mine), 0) <= 2, "I5"

    def check_views(self) -> None:
        for name in self.models:
            mine = Counter(job.model for job, instance in self.running.values() if instance == name)
            assert self.scheduler.busy(name) == mine
        waiting_for = {job.model for job in self.waiting.values()}
        assert self.scheduler.models_waited_for() == sorted(waiting_for)
        for model in waiting_for:
            line = self.scheduler.line(model)
            assert sorted(job.ticket for job in line) == sorted(
                job.ticket for job in self.waiting.values() if job.model == model
            )
            assert [job.priority for job in line] == sorted(job.priority for job in line)
        expiries = [job.expires_at_s for job in self.waiting.values()]
        assert self.scheduler.next_expiry_s() == min(expiries, default=None)

    # Books

    def free(self, name: str) -> int:
        return self.slots[name] - sum(instance == name for _, instance in self.running.values())

    def hosts(self, job: Job) -> list[str]:
        return [
            name
            for name in self.models
            if job.model in self.models[name] and self.free(name) > 0 and name not in job.avoid
        ]

    def waiting_for(self, model: str) -> int:
        return sum(job.model == model for job in self.waiting.values())

    def forget_rivalries(self) -> None:
        lanes = {lane_of(job) for job in self.waiting.values()}
        for pair in [pair for pair in self.given if not lanes.issuperset(pair)]:
            del self.given[pair]


def lane_of(job: Job) -> Lane:
    return (job.model, job.priority, job.tenant)


def test_a_bad_day_breaks_no_invariant(seed: int) -> None:
    fleet = Fleet(seed, MIXED, waiting_max=5)
    for _ in range(STEPS):
        fleet.step()
    for name in MIXED:
        fleet.resize(name, 99)
    fleet.settle()
    stuck = [job for job in fleet.waiting.values() if not job.avoid]
    assert not stuck, "liveness: a healed fleet leaves nobody behind"


def test_tenants_share_evenly(seed: int) -> None:
    """Where all slots are alike, what two tenants are given while both wait differs by at most two: one may
    start a request behind and end one ahead.
    """
    fleet = Fleet(seed, ALIKE, waiting_max=20)
    for name in ALIKE:
        fleet.resize(name, 2)
    for _ in range(STEPS):
        fleet.step(failures=False)  # A job that must avoid an instance is not like the others.
        fleet.check_shares()


def test_the_line_is_the_order_of_service(seed: int) -> None:
    fleet = Fleet(seed, ALIKE, waiting_max=20)
    for _ in range(STEPS):
        fleet.step(failures=False)
    fleet.burst()
    line = fleet.scheduler.line("tiny:latest")
    for name in ALIKE:
        fleet.resize(name, 99)
    assert fleet.settle() == line
