"""The queue of one model against a list that is sorted anew for every question."""

from collections import Counter
from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.inference.core.jobs import Job, Priority
from services.inference.core.policy import Policy
from services.inference.core.queues import Queue
from services.inference.core.shares import Shares

TENANTS = ("a", "b", "heavy")
INSTANCES = ("gpu-0", "gpu-1")
WEIGHTS = {"heavy": 2.0}


class QueueMachine(RuleBasedStateMachine):
    """Jobs come, go, are held and released; tenants are charged and corrected."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = Policy(weights=WEIGHTS)
        self.shares = {priority: Shares(self.policy) for priority in Priority}
        self.queue = Queue(self.policy, self.shares)
        self.jobs: dict[int, Job] = {}
        self.costs: dict[int, float] = {}
        self.only: dict[int, str] = {}
        self.beside: set[int] = set()
        self.ticket = 0

    @rule(
        tenant=st.sampled_from(TENANTS),
        priority=st.sampled_from(Priority),
        cost_s=st.integers(0, 8),
        avoid=st.sampled_from([frozenset(), frozenset(), frozenset({"gpu-0"}), frozenset(INSTANCES)]),
    )
    def come(self, tenant: str, priority: Priority, cost_s: int, avoid: frozenset[str]) -> None:
        self.ticket += 1
        job = Job(
            ticket=self.ticket,
            tenant=tenant,
            model="m",
            priority=priority,
            arrived_at_s=0.0,
            expires_at_s=inf,
            avoid=avoid,
        )
        self.shares[priority].enter(tenant)
        self.queue.add(job, float(cost_s))
        self.jobs[job.ticket], self.costs[job.ticket] = job, float(cost_s)
        if avoid:
            self.beside.add(job.ticket)

    @rule(number=st.integers(0), served=st.booleans(), returns=st.booleans())
    def go(self, number: int, *, served: bool, returns: bool) -> None:
        if not self.jobs:
            return
        job = self.jobs[sorted(self.jobs)[number % len(self.jobs)]]
        if served:
            self.shares[job.priority].charge(job.tenant, self.costs[job.ticket])
        cost_s = self.costs.pop(job.ticket)
        del self.jobs[job.ticket]
        self.beside.discard(job.ticket)
        self.only.pop(job.ticket, None)
        self.queue.remove(job.ticket)
        self.shares[job.priority].leave(job.tenant)
        if returns:  # From an instance that failed it, with its old ticket.
            again = replace(job, avoid=job.avoid | {"gpu-0"})
            self.shares[job.priority].enter(job.tenant)
            self.queue.add(again, cost_s)
            self.jobs[job.ticket], self.costs[job.ticket] = again, cost_s
            self.beside.add(job.ticket)

    @rule(priority=st.sampled_from(Priority), tenant=st.sampled_from(TENANTS), gpu_s=st.integers(-5, 5))
    def correct(self, priority: Priority, tenant: str, gpu_s: int) -> None:
        if self.shares[priority].correct(tenant, float(gpu_s)):
            self.queue.resort(priority, tenant)

    @rule(number=st.integers(0), instance=st.sampled_from(INSTANCES))
    def hold(self, number: int, instance: str) -> None:
        lanes = [ticket for ticket in sorted(self.jobs) if ticket not in self.beside]
        if lanes:
            ticket = lanes[number % len(lanes)]
            self.queue.hold(ticket, instance, 1.0)
            self.only[ticket] = instance
            self.beside.add(ticket)

    @rule(number=st.integers(0))
    def release(self, number: int) -> None:
        if held := sorted(self.only):
            ticket = held[number % len(held)]
            del self.only[ticket]
            self.queue.release(ticket)

    # The list

    def may_run(self, job: Job, instances: tuple[str, ...]) -> bool:
        only = self.only.get(job.ticket)
        return any(name not in job.avoid and only in {None, name} for name in instances)

    def rank(self, job: Job) -> tuple[Priority, float, int]:
        return job.priority, self.shares[job.priority].time(job.tenant), job.ticket

    @invariant()
    def first_and_oldest(self) -> None:
        for instances in (INSTANCES, INSTANCES[:1], INSTANCES[1:]):
            able = [job for job in self.jobs.values() if self.may_run(job, instances)]
            first = self.queue.first(instances)
            assert (first[1] if first else None) == min(able, key=self.rank, default=None)
            assert self.queue.oldest(instances) == min(able, key=lambda job: job.ticket, default=None)
        if self.jobs:
            assert self.queue.oldest_of_all() == self.jobs[min(self.jobs)]
            assert self.queue.best_class() == min(job.priority for job in self.jobs.values())

    @invariant()
    def sums(self) -> None:
        assert len(self.queue) == len(self.jobs)
        assert self.queue.gpu_s == pytest.approx(sum(self.costs.values()))
        counts = Counter(job.priority for job in self.jobs.values())
        assert all(self.queue.count(priority) == counts[priority] for priority in Priority)
        assert {beside.job.ticket for beside in self.queue.beside} == self.beside

    @invariant()
    def line(self) -> None:
        """Who goes, one after the other, if each is charged what was predicted."""
        times = {
            (job.priority, job.tenant): self.shares[job.priority].time(job.tenant)
            for job in self.jobs.values()
        }
        left, order = sorted(self.jobs.values(), key=lambda job: job.ticket), []
        while left:
            job = min(left, key=lambda job: (job.priority, times[job.priority, job.tenant], job.ticket))
            times[job.priority, job.tenant] += self.costs[job.ticket] / WEIGHTS.get(job.tenant, 1.0)
            left.remove(job)
            order.append(job)
        assert self.queue.line() == order

    @invariant()
    def displaceable(self) -> None:
        for priority in Priority:
            for tenant in (*TENANTS, "new"):
                newcomer = Job(
                    ticket=self.ticket + 1,
                    tenant=tenant,
                    model="m",
                    priority=priority,
                    arrived_at_s=0.0,
                    expires_at_s=inf,
                )
                for within_class in (False, True):
                    loser = self.queue.displaceable(newcomer, within_class=within_class)
                    assert loser == (self.least_of_class(newcomer) if within_class else self.least(newcomer))

    def least(self, newcomer: Job) -> Job | None:
        counts = Counter(job.tenant for job in self.jobs.values())
        own = counts[newcomer.tenant] + 1
        greedy = [
            (counts[tenant], youngest)
            for tenant in counts
            if counts[tenant] > 2 * own
            and (lowest := max((job.priority for job in self.free() if job.tenant == tenant), default=None))
            and (youngest := self.youngest(lowest, tenant))
        ]
        if greedy:
            return max(greedy, key=lambda pair: (pair[0], pair[1].ticket))[1]
        for priority in sorted(Priority, reverse=True):
            in_class = Counter(job.tenant for job in self.jobs.values() if job.priority == priority)
            lower = [
                (in_class[tenant], youngest)
                for tenant in in_class
                if priority > newcomer.priority
                and (tenant == newcomer.tenant or own <= 2 * counts[tenant])
                and (youngest := self.youngest(priority, tenant))
            ]
            if lower:
                return max(lower, key=lambda pair: (pair[0], pair[1].ticket))[1]
        return None

    def least_of_class(self, newcomer: Job) -> Job | None:
        counts = Counter(job.tenant for job in self.jobs.values() if job.priority == newcomer.priority)
        greedy = [
            (counts[tenant], youngest)
            for tenant in counts
            if counts[tenant] > 2 * (counts[newcomer.tenant] + 1)
            and (youngest := self.youngest(newcomer.priority, tenant))
        ]
        return max(greedy, key=lambda pair: (pair[0], pair[1].ticket), default=(0, None))[1]

    def free(self) -> list[Job]:
        return [job for job in self.jobs.values() if not job.avoid]

    def youngest(self, priority: Priority, tenant: str) -> Job | None:
        alike = [job for job in self.free() if _lane(job) == (priority, tenant)]
        in_lane = [job for job in alike if job.ticket not in self.beside]
        return max(in_lane or alike, key=lambda job: job.ticket, default=None)

    @invariant()
    def ahead(self) -> None:
        """All of higher classes count, and never more than all of one's own class beside them."""
        for priority in Priority:
            newcomer = Job(
                ticket=self.ticket + 1,
                tenant="a",
                model="m",
                priority=priority,
                arrived_at_s=0.0,
                expires_at_s=inf,
            )
            ahead = self.queue.ahead(newcomer)
            higher = [job for job in self.jobs.values() if job.priority < priority]
            own = [job for job in self.jobs.values() if _lane(job) == (priority, "a")]
            least, most = [*higher, *own], [job for job in self.jobs.values() if job.priority <= priority]
            assert len(least) <= ahead.count <= len(most)
            assert _sum(self.costs, least) - 1e-9 <= ahead.gpu_s <= _sum(self.costs, most) + 1e-9


def _lane(job: Job) -> tuple[Priority, str]:
    return job.priority, job.tenant


def _sum(costs: dict[int, float], jobs: list[Job]) -> float:
    return sum(costs[job.ticket] for job in jobs)


QueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestQueue = QueueMachine.TestCase


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(TENANTS)), max_size=300))
def test_heaps_stay_within_a_multiple_of_what_waits(events: list[tuple[bool, str]]) -> None:
    policy = Policy()
    shares = {priority: Shares(policy) for priority in Priority}
    queue = Queue(policy, shares)
    waiting: list[Job] = []
    for ticket, (comes, tenant) in enumerate(events * 4):
        if comes or not waiting:
            waiting.append(
                Job(
                    ticket=ticket,
                    tenant=tenant,
                    model="m",
                    priority=Priority.DEFAULT,
                    arrived_at_s=0.0,
                    expires_at_s=inf,
                )
            )
            shares[Priority.DEFAULT].enter(tenant)
            queue.add(waiting[-1], 1.0)
        else:
            gone = waiting.pop(0)
            queue.remove(gone.ticket)
            shares[Priority.DEFAULT].leave(gone.tenant)
        limit = 2 * (len(waiting) + 1) + 66
        assert len(queue._arrivals) <= max(limit, 132)
        assert len(queue._heads[Priority.DEFAULT]) <= max(limit, 132)
