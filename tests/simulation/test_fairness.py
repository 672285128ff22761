"""Nobody starves, and tenants get GPU-seconds by their weights: with the bounds that are promised."""

import random
from math import ceil

from services.inference.core.jobs import Job, Priority
from services.inference.core.policy import Policy
from tests.simulation.arrivals import patient
from tests.simulation.machines import PREFILL_TOKEN_S, TOKEN_S, Machine, Spec
from tests.simulation.world import World

TWO_MODELS = [
    Spec(name="gpu-0", slots=2, models={"a": 1, "b": 1}),
    Spec(name="gpu-1", slots=1, models={"b": 1}),
    Spec(name="gpu-2", slots=2, models={"a": 1}),
]
ALIKE = [Spec(name="gpu-0", slots=2, models={"m": 1}), Spec(name="gpu-1", slots=1, models={"m": 1})]


def test_no_job_starves(seed: int) -> None:
    """Once a job has aged, at most (k + 1) / aged_share placements on any instance that could take it pass it
    by, where k older ones had aged that could run there too: whatever more urgent work floods in.
    """
    policy = Policy(waiting_max=40, ageing_s=5.0, aged_share=random.Random(seed).choice([0.1, 0.2, 0.3]))
    world = World(seed, TWO_MODELS, policy, troubles=False)
    passed_by: dict[tuple[int, str], int] = {}
    allowed: dict[tuple[int, str], int] = {}

    def placed(placed_job: Job, machine: Machine) -> None:
        name = machine.spec.name
        aged = [
            job
            for job in world.waiting.values()
            if job.model in machine.sure and world.now_s - job.arrived_at_s >= policy.ageing_s
        ]
        for job in aged:
            key = job.ticket, name
            older_count = sum(other.ticket < job.ticket for other in aged)
            allowed.setdefault(key, (older_count + 1) * ceil(1 / policy.aged_share))
            passed_by[key] = passed_by.get(key, 0) + (job is not placed_job)
            assert passed_by[key] <= allowed[key], "starved"

    world.on_placed = placed
    for _ in range(150):
        for model in world.models:
            for _ in range(4 - len([job for job in world.waiting.values() if job.model == model])):
                world.arrive(**patient(model=model, priority=Priority.INTERACTIVE))
        if world.random.random() < 0.2:
            world.arrive(**patient())
        world.settle()
        world.advance(0.2)
    assert allowed, "somebody has aged"


def test_who_calls_all_urgent_keeps_nobody_out(seed: int) -> None:
    """Against a flood of interactive requests another tenant gets a third of the places; and once one of its jobs
    has aged, at most (k + 1) / aged_share placements pass it by, where k older ones had aged.
    """
    policy = Policy(waiting_max=20, ageing_s=5.0, aged_share=0.2)
    world = World(seed, ALIKE, policy, troubles=False)
    passed_by: dict[int, int] = {}
    allowed: dict[int, int] = {}

    def placed(placed_job: Job, machine: Machine) -> None:
        aged = [job for job in world.waiting.values() if world.now_s - job.arrived_at_s >= policy.ageing_s]
        for job in aged if machine.spec.name == "gpu-0" else ():
            older_count = sum(other.ticket < job.ticket for other in aged)
            allowed.setdefault(job.ticket, (older_count + 1) * ceil(1 / policy.aged_share))
            passed_by[job.ticket] = passed_by.get(job.ticket, 0) + (job is not placed_job)
            assert passed_by[job.ticket] <= allowed[job.ticket], "starved"

    world.on_placed = placed
    for step in range(189):
        for _ in range(4):
            world.arrive(**patient(tenant="loud", priority=Priority.INTERACTIVE))
        world.arrive(**patient(tenant="quiet", priority=Priority.DEFAULT))
        world.settle()
        if step > 20:
            quiet_count = sum(job.tenant == "quiet" for job in world.waiting.values())
            assert quiet_count >= policy.waiting_max // 3 - 1, "kept out"
        world.advance(0.5)
    assert sum(job.tenant == "quiet" for job, _ in world.placed) >= policy.aged_share * len(world.placed) / 3


def test_tenants_get_gpu_seconds_by_weight(seed: int) -> None:
    """What two tenants that always wait had, by weight, differs by no more than what one job of each may cost, and
    one more: what runs was charged as predicted, and is corrected when it ends.
    """
    weight = float(seed % 3 + 1)
    policy = Policy(waiting_max=40, weights={"heavy": weight}, ageing_s=1e9)
    world = World(seed, ALIKE, policy, troubles=False)
    longest_s = 400 * PREFILL_TOKEN_S + 170 * TOKEN_S * 1.1
    bound_s = (2 + 1 / weight) * longest_s
    tokens = {"heavy": world.random.choice([10, 300]), "light": world.random.choice([10, 300])}
    began: dict[str, float] = {}
    worst_s = 0.0
    for step in range(400):
        for tenant, output_max in tokens.items():
            for _ in range(12 - sum(job.tenant == tenant for job in world.waiting.values())):
                world.arrive(**patient(tenant=tenant, priority=Priority.DEFAULT, output_token_max=output_max))
        world.settle()
        world.advance(world.random.expovariate(8.0))
        had = {tenant: gpu_s(world, tenant) for tenant in tokens}
        if step == 20:
            began = had
        elif step > 20:
            lag_s = (had["heavy"] - began["heavy"]) / weight - (had["light"] - began["light"])
            worst_s = max(worst_s, abs(lag_s))
    assert worst_s <= bound_s, "I5"


def gpu_s(world: World, tenant: str) -> float:
    """What a tenant had so far, by the world's own integration."""
    return sum(
        machine.tenants.get(tenant, 0.0)
        + sum(run.share_s for run in machine.running.values() if run.job.tenant == tenant)
        for machine in world.machines.values()
    )
