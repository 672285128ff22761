"""Which model is loaded where: no thrash, a turn for each, and an end to all waiting once a fleet is well."""

import random
from dataclasses import replace
from itertools import pairwise
from math import inf

import pytest

from services.inference.core.decisions import Cause
from services.inference.core.estimates import Estimates
from services.inference.core.hosts import Capacity
from services.inference.core.jobs import Job, Priority
from services.inference.core.policy import Policy
from services.inference.core.scheduler import Scheduler
from services.inference.simulation import world as simulated
from services.inference.simulation.calls import Verdict
from services.inference.simulation.fleet_spec import GIB, FleetSpec, InstanceGroup
from services.inference.simulation.fronts import Gateway
from services.inference.simulation.parts import MachineSpec, ModelSpec
from services.inference.simulation.trace import Arrival
from tests.simulation.arrivals import patient
from tests.simulation.machines import PREFILL_TOKEN_S, TOKEN_S, Machine, Spec
from tests.simulation.test_scheduler import DARK, POLICY, ROOMY, TIGHT
from tests.simulation.world import World

ONE_PLACE = [Spec(name="gpu-0", slots=2, models={"a": 4, "b": 4}, vram_bytes=6)]
ONE_PLACE_DARK = [Spec(name="gpu-0", slots=2, models={"a": 4, "b": 4}, vram_bytes=6, known=False)]
THREE_FOR_ONE = [Spec(name="gpu-0", slots=2, models={"a": 4, "b": 4, "z": 4}, vram_bytes=6)]


def test_a_healed_fleet_leaves_nobody_behind(seed: int) -> None:
    """After the last failure every job that has an instance left runs, however long it takes to load for it."""
    policy = Policy(waiting_max=6, ageing_s=8.0, turn_min_s=1.0, turn_loads=2.0, load_retry_max_s=4.0)
    world = World(seed, (ROOMY, TIGHT, DARK)[seed % 3], policy)
    for _ in range(80):
        world.step()
        world.arrive(**patient())
        world.settle()
    world.troubles = False
    for _ in range(600):
        if not world.running and all(stranded(world, job) for job in world.waiting.values()):
            return
        world.advance(0.5)
    assert not [job for job in world.waiting.values() if not stranded(world, job)], "liveness"


def stranded(world: World, job: Job) -> bool:
    """Whether every instance that could run it has failed it."""
    having = {name for name, machine in world.machines.items() if job.model in machine.spec.models}
    return having <= job.avoid


def test_two_alternating_models_do_not_thrash(seed: int) -> None:
    """Arrivals alternate. Ollama alone, first come, first served, loads at every change."""
    specs = (ONE_PLACE, ONE_PLACE_DARK)[seed % 2]
    world = World(seed, specs, Policy(waiting_max=1_000, ageing_s=inf), troubles=False)
    models = []
    for number in range(300):
        models.append("ab"[number % 2])
        world.arrive(**patient(model=models[-1], priority=Priority.DEFAULT))
        world.settle()
        world.advance(world.random.expovariate(2.5))
    while world.waiting:
        world.advance(5.0)
    naive_count = 1 + sum(before != after for before, after in pairwise(models))
    assert world.counts["Load"] <= naive_count / 10
    turn_s = 10 * (2.0 + 2.0) * 0.8  # With loads as quick as they may be.
    cut_short = [stayed_s for _, stayed_s, waiting_count in world.turned_out[2:] if waiting_count]
    assert all(stayed_s >= turn_s for stayed_s in cut_short), "who has work has a whole turn"
    assert len(world.placed) == 300


def test_two_callers_that_wait_for_their_answers_do_not_thrash(seed: int) -> None:
    """Each asks again when it has its answer, so that nobody waits while the other one's model runs."""
    world = World(seed, ONE_PLACE, Policy(ageing_s=inf), troubles=False)
    for _ in range(600):
        for model in "ab":
            busy = any(run.job.model == model for run in world.machines["gpu-0"].running.values())
            if not busy and not any(job.model == model for job in world.waiting.values()):
                world.arrive(**patient(model=model, tenant=model, priority=Priority.DEFAULT))
        world.settle()
        world.advance(0.1)
    assert len(world.placed) > 20
    assert {job.model for job, _ in world.placed} == {"a", "b"}
    assert world.counts["Load"] <= max(4, len(world.placed) / 10)


def test_every_model_has_its_turn(seed: int) -> None:
    """Three models for one place, all waited for all the time: none is left out for its name or its callers."""
    policy = Policy(waiting_max=40, ageing_s=20.0, turn_loads=1.0, turn_min_s=1.0)
    world = World(seed, THREE_FOR_ONE, policy, troubles=False)
    waited_s: dict[str, float] = {"z": 0.0}
    last_s = {"z": 0.0}

    def placed(job: Job, machine: Machine) -> None:
        if job.model == "z":
            last_s["z"] = world.now_s
        waited_s["z"] = max(waited_s["z"], world.now_s - last_s["z"])

    world.on_placed = placed
    world.arrive(**patient(model="z", priority=Priority.DEFAULT))
    for _ in range(250):
        for model in "ab":
            for _ in range(3 - sum(job.model == model for job in world.waiting.values())):
                world.arrive(**patient(model=model, priority=Priority.DEFAULT))
        if not any(job.model == "z" for job in world.waiting.values()):
            last_s["z"] = world.now_s
            world.arrive(**patient(model="z", priority=Priority.DEFAULT))
        world.settle()
        world.advance(0.4)
    longest_job_s = 400 * PREFILL_TOKEN_S + 170 * TOKEN_S
    turn_s = 2 * 2 * 1.2 + longest_job_s + 2 * 1.2 + 0.5  # Its loads, its last jobs, the next load, the plan.
    assert waited_s["z"] <= 3 * turn_s


def test_estimates_converge(seed: int) -> None:
    world = World(seed, ROOMY, Policy(waiting_max=10), troubles=False)
    world.batch_cost = 0.0
    for _ in range(250):
        world.arrive(**patient())
        world.settle()
        world.advance(0.4)
    worked = 0.95  # Of wall time, on average.
    assert world.placed
    for model in world.models:
        for machine in world.machines.values():
            if sum(job.model == model and name == machine.spec.name for job, name in world.placed) < 20:
                continue
            name = machine.spec.name
            for batch in (1, 2):
                token_s = world.estimates.token_s(model, name, batch=batch)
                assert token_s == pytest.approx(TOKEN_S * worked, rel=0.2)
            truth_s = 100 * PREFILL_TOKEN_S * worked
            assert world.estimates.prefill_s(model, name, 100) == pytest.approx(truth_s, rel=0.1)
            truth_s = machine.spec.models[model] / 2.0
            assert world.estimates.load_s(model, name) == pytest.approx(truth_s, rel=0.25)


def test_tokens_of_which_there_are_no_more_are_not_loaded_for() -> None:
    """Nobody loads for somebody who has left before it began."""
    world = World(0, ONE_PLACE, POLICY, troubles=False)
    world.arrive(**patient(model="a"))
    world.cancel(0)
    world.settle()
    world.advance(10.0)
    assert world.counts["Load"] == 0


class Unaware(Scheduler):
    """One that is not told how much memory there is."""

    def observe(self, capacity: Capacity, now_s: float) -> None:
        super().observe(replace(capacity, vram_bytes=0), now_s)


@pytest.mark.parametrize("kind", [Scheduler, Unaware])
def test_a_bound_of_ollamas_own_on_the_number_of_models_is_found_out(
    seed: int, kind: type[Scheduler]
) -> None:
    """Five small models on a large GPU, of which Ollama keeps three if it is not told otherwise."""
    model = ModelSpec(
        name="", vram_bytes=4 * GIB, load_s=2.0, prefill_tokens_per_s=8_000.0, token_s=0.008, batch_cost=0.1
    )
    machine = MachineSpec(name="", vram_bytes=80 * GIB, parallel=4)
    fleet = FleetSpec(
        groups=(InstanceGroup(name="gpu", count=1, speed=1.0, machine=machine),),
        models={f"m{n}:latest": replace(model, name=f"m{n}:latest") for n in range(5)},
        policy=Policy(),
    )
    chance = random.Random(seed)
    arrivals = [
        Arrival(
            at_s=n / 2 + chance.random() / 2, model=f"m{n % 5}:latest", prompt_tokens=50, output_tokens=20
        )
        for n in range(400)
    ]
    world = simulated.World(fleet, arrivals)
    gateway = Gateway(world)
    gateway.scheduler = kind(fleet.policy, Estimates())
    world.run(gateway)
    assert gateway.loads[Cause.SURPRISE] <= 8, "until it is known, and again when that may be outdated"
    assert world.machines[0].load_count <= 0.3 * len(arrivals), "as many as Ollama alone needs, or fewer"
    assert all(call.verdict is Verdict.COMPLETED for call in world.calls)
