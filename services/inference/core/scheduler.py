"""Which waiting job runs on which instance, and when to refuse.

No clock, no I/O, no randomness: callers pass `now_s` and carry out what `decide` returns. The same calls
give the same decisions, so a failing simulation replays from its seed.

Who goes next: the highest priority; in it, the tenant that has had least; of that tenant, the oldest job.
Where: of the instances that have the model and a free slot, one that has it loaded, then the freest, then
the first by name. A job that can be placed never waits behind one that cannot.

Invariants, each asserted by tests/simulation/test_scheduler.py:
  I1  A job is placed only on a free slot of an instance that has its model and that it need not avoid.
      Shrinking an instance never interrupts what runs there.
  I2  At most `waiting_max` jobs wait for a model.
  I3  After `decide`, no job waits that could be placed.
  I4  No job is placed while one of a higher class could take its slot.
  I5  While two tenants of a class both wait for what any slot could do, what they are given differs by at
      most two: one may start a request behind, and end one ahead.
  I6  Nothing is decided twice, nothing after it was withdrawn, and no job waits past its expiry.
"""

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

from services.inference.core.expiries import Expiries
from services.inference.core.shares import Shares
from services.inference.errors import QueueFull


class Priority(IntEnum):
    """Which jobs go first. Numbered as in the proto."""

    INTERACTIVE = 1
    DEFAULT = 2
    BATCH = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    ticket: int  # Rises with arrival, so it also breaks ties.
    tenant: str
    model: str  # A key, see core/names.py.
    priority: Priority
    arrived_at_s: float
    expires_at_s: float
    avoid: frozenset[str] = frozenset()  # Instances that have failed it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What an instance can take."""

    instance: str
    slots: int  # 0 while it is stale.
    models: frozenset[str]
    loaded: frozenset[str] = frozenset()  # Already in memory: no load time.


@dataclass(frozen=True, slots=True)
class Dispatch:
    job: Job
    instance: str


@dataclass(frozen=True, slots=True)
class Expire:
    job: Job


_Lane = tuple[Priority, str]  # A class and a tenant.


class Scheduler:
    """The queues of all models and the slots of all instances."""

    def __init__(self, *, waiting_max: int) -> None:
        self._waiting_max = waiting_max
        self._waiting: dict[int, Job] = {}
        self._queues: dict[str, dict[_Lane, OrderedDict[int, Job]]] = defaultdict(dict)
        self._counts: Counter[str] = Counter()  # Waiting jobs by model.
        self._expiries = Expiries(self._waiting.__contains__)
        self._shares = {priority: Shares() for priority in Priority}
        self._running: dict[int, Dispatch] = {}
        self._busy: dict[str, Counter[str]] = defaultdict(Counter)  # Slots in use, by instance and model.
        self._capacities: dict[str, Capacity] = {}

    def submit(self, job: Job) -> None:
        """Queue `job`, or raise QueueFull: an early refusal beats a late timeout.

        It goes to the end of its tenant's line; one that comes back from an instance to avoid, to the front.
        """
        if self._counts[job.model] >= self._waiting_max:
            raise QueueFull(waiting_max=self._waiting_max)
        self._waiting[job.ticket] = job
        self._counts[job.model] += 1
        lane = self._queues[job.model].setdefault((job.priority, job.tenant), OrderedDict())
        lane[job.ticket] = job
        if job.avoid:
            lane.move_to_end(job.ticket, last=False)
        self._expiries.add(job.ticket, job.expires_at_s)
        self._shares[job.priority].enter(job.tenant)

    def withdraw(self, ticket: int) -> None:
        """Forget a job that finished, failed or lost its caller. Idempotent."""
        if job := self._waiting.get(ticket):
            self._unqueue(job)
        if run := self._running.pop(ticket, None):
            self._busy[run.instance][run.job.model] -= 1

    def observe(self, capacity: Capacity) -> None:
        """Replace what is known of an instance."""
        self._capacities[capacity.instance] = capacity

    def decide(self, now_s: float) -> list[Dispatch | Expire]:
        """Return what is to be done now, in order. It counts as done."""
        decisions: list[Dispatch | Expire] = []
        while (ticket := self._expiries.pop_due(now_s)) is not None:
            decisions.append(Expire(self._waiting[ticket]))
            self._unqueue(self._waiting[ticket])
        while placement := self._next_placement():
            job = placement.job
            self._shares[job.priority].charge(job.tenant)
            self._unqueue(job)
            self._running[job.ticket] = placement
            self._busy[placement.instance][job.model] += 1
            decisions.append(placement)
        return decisions

    def next_expiry_s(self) -> float | None:
        """Return when `decide` has something to do even if nothing happens until then."""
        return self._expiries.next_s()

    def busy(self, instance: str) -> Mapping[str, int]:
        """Return the slots in use on an instance, by model."""
        return +self._busy[instance]

    def models_waited_for(self) -> list[str]:
        """Return the models that have a queue, in order."""
        return sorted(self._queues)

    def line(self, model: str) -> list[Job]:
        """Return the jobs that wait for `model`, in the order in which they would go."""
        order = [
            ((priority, self._shares[priority].time(tenant) + place, job.ticket), job)
            for (priority, tenant), lane in self._queues.get(model, {}).items()
            for place, job in enumerate(lane.values())
        ]
        return [job for _, job in sorted(order, key=lambda pair: pair[0])]

    def _unqueue(self, job: Job) -> None:
        del self._waiting[job.ticket]
        self._counts[job.model] -= 1
        lane = (job.priority, job.tenant)
        lanes = self._queues[job.model]
        del lanes[lane][job.ticket]
        if not lanes[lane]:
            del lanes[lane]
        if not lanes:
            del self._queues[job.model], self._counts[job.model]
        self._shares[job.priority].leave(job.tenant)

    def _next_placement(self) -> Dispatch | None:
        placeable = list(self._placeable())
        if not placeable:
            return None
        job, hosts = min(placeable, key=lambda pair: self._rank(pair[0]))
        best = min(hosts, key=lambda host: (job.model not in host.loaded, -self._free(host), host.instance))
        return Dispatch(job, best.instance)

    def _placeable(self) -> Iterator[tuple[Job, list[Capacity]]]:
        """Yield the first job of each lane that some instance could take now, and those instances."""
        free = [host for host in self._capacities.values() if self._free(host) > 0]
        for model, lanes in self._queues.items():
            if hosts := [host for host in free if model in host.models]:
                for lane in lanes.values():
                    for job in lane.values():
                        if allowed := [host for host in hosts if host.instance not in job.avoid]:
                            yield job, allowed
                            break

    def _rank(self, job: Job) -> tuple[Priority, float, int]:
        return (job.priority, self._shares[job.priority].time(job.tenant), job.ticket)

    def _free(self, host: Capacity) -> int:
        return host.slots - self._busy[host.instance].total()
