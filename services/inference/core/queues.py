"""Who waits for one model, and who of them goes next.

A lane is what one tenant has waiting in one class: first come, first served. Between lanes of a class the
tenant that has had least goes first (core/shares.py), and a class goes before the next one. Two kinds of
jobs stand beside their lane, because not every slot will do for them: those that came back from an instance
that failed, and those that wait for the one instance that holds their prompt's prefix. Both are few.

Heaps are corrected lazily: an entry that is out of date is dropped or renewed when it comes to the top.
"""

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from services.inference.core.jobs import Job, Priority
from services.inference.core.policy import Policy
from services.inference.core.shares import Shares

_SLACK_COUNT = 64
_MORE_THAN = 2  # Times as many as somebody else a tenant must have waiting to lose a place to them.

_Entry = tuple[float, int, str]  # Virtual time, the first ticket, the tenant.
Rank = tuple[Priority, float, int]  # Class, the tenant's virtual time, ticket: the smallest goes first.


@dataclass(slots=True)
class _Lane:
    jobs: OrderedDict[int, Job] = field(default_factory=OrderedDict)  # Without those that stand beside it.
    count: int = 0  # With them.
    cost_s: float = 0.0
    entry: "_Entry | None" = None  # In the heap of its class; never later than its turn.


@dataclass(frozen=True, slots=True)
class Beside:
    """A job for which not every slot will do."""

    job: Job
    avoid: frozenset[str] = frozenset()  # Instances.
    only: str = ""  # The instance that it waits for; empty if for any that it need not avoid.
    until_s: float = 0.0  # When it waits for that one no longer.

    def may_run_on(self, instance: str) -> bool:
        return instance not in self.avoid and self.only in {"", instance}


@dataclass(frozen=True, slots=True)
class Ahead:
    """What goes before a job, as far as can be foreseen."""

    count: int
    gpu_s: float


class Queue:
    """The jobs that wait for one model."""

    def __init__(self, policy: Policy, shares: Mapping[Priority, Shares]) -> None:
        self._policy = policy
        self._shares = shares
        self._costs: dict[int, float] = {}  # GPU-seconds by ticket, as predicted when it came.
        self._lanes: dict[Priority, dict[str, _Lane]] = {priority: {} for priority in Priority}
        self._heads: dict[Priority, list[_Entry]] = {priority: [] for priority in Priority}
        self._class_costs = dict.fromkeys(Priority, 0.0)
        self._class_counts = dict.fromkeys(Priority, 0)
        self._tenant_counts: Counter[str] = Counter()  # In all classes together.
        self._jobs: dict[int, Job] = {}
        self._beside: dict[int, Beside] = {}
        self._arrivals: list[int] = []  # A heap, of those in lanes.

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def gpu_s(self) -> float:
        """What all that waits is predicted to cost."""
        return sum(self._class_costs.values())

    @property
    def beside(self) -> Collection[Beside]:
        return self._beside.values()

    def cost_s(self, ticket: int) -> float:
        """Return what a job was predicted to cost."""
        return self._costs[ticket]

    def is_beside(self, ticket: int) -> bool:
        return ticket in self._beside

    def count(self, priority: Priority) -> int:
        return self._class_counts[priority]

    def add(self, job: Job, cost_s: float) -> None:
        lane = self._lanes[job.priority].setdefault(job.tenant, _Lane())
        lane.count += 1
        lane.cost_s += cost_s
        self._class_costs[job.priority] += cost_s
        self._class_counts[job.priority] += 1
        self._tenant_counts[job.tenant] += 1
        self._jobs[job.ticket] = job
        self._costs[job.ticket] = cost_s
        self._compact()
        if job.avoid:
            self._beside[job.ticket] = Beside(job, avoid=job.avoid)
        else:
            heappush(self._arrivals, job.ticket)
            lane.jobs[job.ticket] = job
            if len(lane.jobs) == 1:
                self.resort(job.priority, job.tenant)

    def remove(self, ticket: int) -> None:
        job, cost_s = self._jobs.pop(ticket), self._costs.pop(ticket)
        lanes = self._lanes[job.priority]
        lane = lanes[job.tenant]
        lane.count -= 1
        lane.cost_s -= cost_s
        self._class_costs[job.priority] -= cost_s
        self._class_counts[job.priority] -= 1
        self._tenant_counts[job.tenant] -= 1
        if not self._tenant_counts[job.tenant]:
            del self._tenant_counts[job.tenant]
        if self._beside.pop(ticket, None) is None:
            self._take_from(lane, job)
        if not lane.count:
            del lanes[job.tenant]
        if not self._class_counts[job.priority]:
            self._class_costs[job.priority] = 0.0  # Rounding must not pile up.

    def hold(self, ticket: int, instance: str, until_s: float) -> None:
        """Have a job wait for one instance alone."""
        job = self._jobs[ticket]
        if ticket not in self._beside:
            self._take_from(self._lanes[job.priority][job.tenant], job)
        self._beside[ticket] = Beside(job, only=instance, until_s=until_s)

    def release(self, ticket: int) -> None:
        """Let a job that stands beside its lane run anywhere."""
        self._beside[ticket] = Beside(self._jobs[ticket])

    def resort(self, priority: Priority, tenant: str) -> None:
        """Take note that a tenant's turn may come earlier than it would have."""
        lane = self._lanes[priority].get(tenant)
        if lane is not None and lane.jobs:
            entry = (self._shares[priority].time(tenant), next(iter(lane.jobs)), tenant)
            if lane.entry is None or entry < lane.entry:
                self._enter(priority, lane, entry)

    def first(self, instances: Collection[str]) -> tuple[Rank, Job] | None:
        """Return who goes next if one of `instances` has a slot."""
        best = next(self._firsts(), None)
        for beside in self._beside.values():
            if any(map(beside.may_run_on, instances)):
                rank = self._rank(beside.job)
                if best is None or rank < best[0]:
                    best = rank, beside.job
        return best

    def oldest_of_all(self) -> Job:
        """Return who has waited longest. Somebody must wait."""
        oldest = self._oldest(self._beside)
        assert oldest is not None
        return oldest

    def oldest(self, instances: Collection[str]) -> Job | None:
        """Return who has waited longest of those for whom one of `instances` will do."""
        return self._oldest(
            ticket for ticket, beside in self._beside.items() if any(map(beside.may_run_on, instances))
        )

    def may_run_on(self, job: Job, instance: str) -> bool:
        beside = self._beside.get(job.ticket)
        return beside is None or beside.may_run_on(instance)

    def displaceable(self, newcomer: Job, *, within_class: bool = False) -> Job | None:
        """Return who should give way to `newcomer`, if anybody should.

        Between tenants, classes have no say, or whoever says that all is urgent would keep the others out:
        somebody of the tenant that has most waiting in all classes together gives way, if that is more than
        twice what the newcomer's would have then. Among equals who was accepted stays accepted. Otherwise
        somebody of a lower class does, unless the newcomer's tenant would have more than twice what theirs
        has: they would only come back by the first rule.

        The youngest, who has waited least, of their tenant's lowest class; what tenants are called has no say.
        Never one that came back from an instance that failed it: it was promised an answer. `within_class`: only
        a place of the newcomer's class will do, and only what waits in that class counts.
        """
        if within_class:
            lanes = self._lanes[newcomer.priority]
            counts = {tenant: lane.count for tenant, lane in lanes.items()}
            return self._of_the_greediest(counts, newcomer.tenant, [newcomer.priority])
        lowest_first = sorted(Priority, reverse=True)
        loser = self._of_the_greediest(self._tenant_counts, newcomer.tenant, lowest_first)
        lower = (priority for priority in lowest_first if priority > newcomer.priority)
        while loser is None and (priority := next(lower, None)) is not None:
            loser = self._of_a_class(priority, newcomer.tenant)
        return loser

    def ahead(self, job: Job) -> Ahead:
        """Foresee what would go before `job` if it came now: all of higher classes, and of its own what others
        would be given until its tenant has had what it has waiting already.
        """
        count = sum(self._class_counts[priority] for priority in Priority if priority < job.priority)
        gpu_s = sum(self._class_costs[priority] for priority in Priority if priority < job.priority)
        shares, lanes = self._shares[job.priority], self._lanes[job.priority]
        own = lanes.get(job.tenant)
        start = shares.start(job.tenant)
        if own is not None:
            start += own.cost_s / self._policy.weight(job.tenant)
            count, gpu_s = count + own.count, gpu_s + own.cost_s
        for tenant, lane in lanes.items():
            if tenant != job.tenant and (lag := start - shares.time(tenant)) >= 0:
                mean_s = lane.cost_s / lane.count
                # Those that start up to then: one more than fit in whole.
                before_s = min(lane.cost_s, lag * self._policy.weight(tenant) + mean_s)
                count += round(lane.count * before_s / lane.cost_s) if lane.cost_s else lane.count
                gpu_s += before_s
        return Ahead(count, gpu_s)

    def best_class(self) -> Priority:
        """Return the highest class of which somebody waits. Somebody must."""
        return min(priority for priority in Priority if self._class_counts[priority])

    def line(self) -> list[Job]:
        """Return all jobs in the order in which they would go, if all cost as predicted."""
        order = []
        cumulated: dict[tuple[Priority, str], float] = {}
        for ticket in sorted(self._jobs):
            job = self._jobs[ticket]
            before_s = cumulated.get(_lane_of(job), 0.0)
            cumulated[_lane_of(job)] = before_s + self._costs[ticket]
            time = self._shares[job.priority].time(job.tenant) + before_s / self._policy.weight(job.tenant)
            order.append(((job.priority, time, ticket), job))
        return [job for _, job in sorted(order, key=lambda pair: pair[0])]

    def _of_the_greediest(
        self, counts: Mapping[str, int], newcomer: str, classes: Sequence[Priority]
    ) -> Job | None:
        """Return who gives way of the tenant that has most by `counts`, if that is too much."""
        fair_count = _MORE_THAN * (counts.get(newcomer, 0) + 1)
        return self._greediest(
            (count, loser)
            for tenant, count in counts.items()
            if count > fair_count
            and (loser := next(filter(None, (self._youngest(each, tenant) for each in classes)), None))
        )

    def _of_a_class(self, priority: Priority, newcomer: str) -> Job | None:
        """Return who gives way to a tenant's job of a higher class."""
        counts = self._tenant_counts
        return self._greediest(
            (lane.count, loser)
            for tenant, lane in self._lanes[priority].items()
            if (tenant == newcomer or counts[newcomer] + 1 <= _MORE_THAN * counts[tenant])
            and (loser := self._youngest(priority, tenant))
        )

    @staticmethod
    def _greediest(losers: Iterable[tuple[int, Job]]) -> Job | None:
        _, loser = max(losers, key=lambda pair: (pair[0], pair[1].ticket), default=(0, None))
        return loser

    def _youngest(self, priority: Priority, tenant: str) -> Job | None:
        """Return who may be turned out of a lane: those that are held last of all."""
        lane = self._lanes[priority].get(tenant)
        if lane is None:
            return None
        if lane.jobs:
            return next(reversed(lane.jobs.values()))
        held = (
            beside.job
            for beside in self._beside.values()
            if _lane_of(beside.job) == (priority, tenant) and not beside.job.avoid
        )
        return max(held, key=lambda job: job.ticket, default=None)

    def _oldest(self, beside: Iterable[int]) -> Job | None:
        while self._arrivals and (self._arrivals[0] not in self._jobs or self._arrivals[0] in self._beside):
            heappop(self._arrivals)
        ticket = min([*self._arrivals[:1], *beside], default=None)
        return None if ticket is None else self._jobs[ticket]

    def _firsts(self) -> Iterator[tuple[Rank, Job]]:
        for priority, heads in self._heads.items():
            while heads:
                entry = time, ticket, tenant = heads[0]
                lane = self._lanes[priority].get(tenant)
                if lane is None or lane.entry != entry:  # There is a newer one, or no lane any more.
                    heappop(heads)
                elif lane.jobs:
                    now = self._shares[priority].time(tenant), next(iter(lane.jobs)), tenant
                    if now == entry:
                        yield (priority, time, ticket), lane.jobs[ticket]
                        break
                    heappop(heads)  # Its tenant was served, or its first job left.
                    self._enter(priority, lane, now)
                else:
                    heappop(heads)
                    lane.entry = None

    def _enter(self, priority: Priority, lane: _Lane, entry: _Entry) -> None:
        lane.entry = entry
        heappush(self._heads[priority], entry)

    def _rank(self, job: Job) -> Rank:
        return job.priority, self._shares[job.priority].time(job.tenant), job.ticket

    def _take_from(self, lane: _Lane, job: Job) -> None:
        first = next(iter(lane.jobs)) == job.ticket
        del lane.jobs[job.ticket]
        if first:
            self.resort(job.priority, job.tenant)

    def _compact(self) -> None:
        """Keep heaps within a multiple of what waits, however much comes and goes."""
        limit = 2 * len(self._jobs) + _SLACK_COUNT
        if len(self._arrivals) > limit:
            self._arrivals = [ticket for ticket in self._arrivals if ticket in self._jobs]
            heapify(self._arrivals)
        for priority, heads in self._heads.items():
            if len(heads) > limit:
                heads.clear()
                for tenant, lane in self._lanes[priority].items():
                    lane.entry = None
                    self.resort(priority, tenant)


def _lane_of(job: Job) -> tuple[Priority, str]:
    return job.priority, job.tenant
