"""A busy fleet as the scheduler sees it, for timing single decisions: every slot taken, a set number waiting.

The clock is the simulation's: it moves on as it would if the fleet worked, so that what the scheduler does now and
then (its plan, several times a second) is in the samples as often as it would be.
"""

from dataclasses import dataclass
from itertools import count
from math import inf
from random import Random
from time import perf_counter_ns, thread_time_ns

from services.inference.core.decisions import Dispatch
from services.inference.core.estimates import Estimates
from services.inference.core.hosts import Capacity
from services.inference.core.jobs import Job, Priority
from services.inference.core.policy import Policy
from services.inference.core.prefixes import Prefix
from services.inference.core.scheduler import Scheduler
from services.inference.core.usage import Usage

SLOTS = 4
GIB = 2**30
SERVICE_S = 4.0
TALKING, TURNS = 0.5, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a step took. Busy time leaves out what others had of the processor meanwhile."""

    decision_s: float
    decision_busy_s: float
    submit_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Every instance has two of the `model_count` models in memory; of one, every instance has that."""

    waiting_count: int
    tenant_count: int
    instance_count: int
    model_count: int


class BusyFleet:
    """A scheduler with work, and the time that it takes."""

    def __init__(self, shape: Shape, seed: int) -> None:
        self._shape = shape
        self._random = Random(seed)
        self._tickets = count()
        self._talk_numbers = count()
        self._talks: dict[tuple[int, str], list[int]] = {}  # Number and turn of those that go on.
        self._now_s = 0.0
        self._step_s = SERVICE_S / (shape.instance_count * SLOTS)
        self._running: list[int] = []
        self._models = [f"model-{number}:latest" for number in range(shape.model_count)]
        self.scheduler = Scheduler(Policy(waiting_max=2 * shape.waiting_count), Estimates())
        for number in range(shape.instance_count):
            own = {self._models[(2 * number + place) % shape.model_count]: 5 * GIB for place in range(2)}
            capacity = Capacity(
                instance=f"gpu-{number:02}",
                slots=SLOTS,
                models=own,
                loaded=own,
                vram_bytes=24 * GIB,
            )
            self.scheduler.observe(capacity, self._now_s)
        for _ in range(shape.waiting_count + shape.instance_count * SLOTS):
            self.scheduler.submit(self._job(), self._now_s)
        self._place()
        while len(self._running) < shape.instance_count * SLOTS:  # Models are not asked for evenly.
            self.scheduler.submit(self._job(), self._now_s)
            self._place()

    def step(self) -> Sample:
        """Take a decision, one job ends and whoever is next gets its slot, and queue the next job."""
        self._now_s += self._step_s
        ended = self._running.pop(self._random.randrange(len(self._running)))
        usage = Usage(prompt_token_count=300, prompt_s=0.1, output_token_count=100, output_s=SERVICE_S - 0.1)
        job = self._job()
        began_ns, began_busy_ns = perf_counter_ns(), thread_time_ns()
        self.scheduler.end(ended, usage, self._now_s)
        decisions = self.scheduler.decide(self._now_s)
        decided_busy_ns, decided_ns = thread_time_ns(), perf_counter_ns()
        self.scheduler.submit(job, self._now_s)
        queued_ns = perf_counter_ns()
        self._running += [one.job.ticket for one in decisions if isinstance(one, Dispatch)]
        return Sample(
            decision_s=(decided_ns - began_ns) / 1e9,
            decision_busy_s=(decided_busy_ns - began_busy_ns) / 1e9,
            submit_s=(queued_ns - decided_ns) / 1e9,
        )

    def _place(self) -> None:
        decisions = self.scheduler.decide(self._now_s)
        self._running += [one.job.ticket for one in decisions if isinstance(one, Dispatch)]

    def _job(self) -> Job:
        """All of a tenant begin alike, and every second one goes on with a conversation."""
        tenant, model = self._random.randrange(self._shape.tenant_count), self._random.choice(self._models)
        prefixes = [Prefix(key=f"system {tenant} {model}", token_count=50)]
        if self._random.random() < TALKING:
            talk = self._talks.setdefault((tenant, model), [next(self._talk_numbers), 0])
            talk[1] += 1
            said = range(talk[1], 0, -1)
            prefixes[:0] = [Prefix(key=f"talk {talk[0]} {turn}", token_count=50 + 50 * turn) for turn in said]
            if talk[1] == TURNS:
                del self._talks[tenant, model]
        return Job(
            ticket=next(self._tickets),
            tenant=f"tenant-{tenant}",
            model=model,
            priority=self._random.choice(list(Priority)),
            arrived_at_s=self._now_s,
            expires_at_s=self._now_s + self._random.uniform(600, 3600),
            deadline_at_s=inf,
            prompt_token_count=300,
            output_token_max=200,
            prefixes=tuple(prefixes),
        )
