"""What must hold after every decision, worked out from the world's own books."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from services.inference.core.jobs import Job, Priority
from tests.simulation.machines import Machine

if TYPE_CHECKING:
    from tests.simulation.world import World

EPSILON_S = 1e-6


def check(world: World) -> None:
    """I2, I3 and I6 after every decision."""
    assert not world.displaced
    by_model = Counter(job.model for job in world.waiting.values())
    assert all(number <= world.policy.waiting_max for number in by_model.values()), "I2"
    for job in world.waiting.values():
        assert job.expires_at_s > world.now_s, "I6: waits past its expiry"
        if any(could_run(world, job, machine) for machine in world.machines.values()):
            check_hold(world, job)


def check_hold(world: World, job: Job) -> None:
    """I3: only for the instance that holds its prefix does a job wait with slots free, and not for long."""
    assert job.prefixes, "I3"
    since_s = world.passed_over_s.setdefault(job.ticket, world.now_s)
    assert world.now_s - since_s <= 2 * world.policy.hold_max_s + 0.1, "I3: held for too long"


def check_turn(world: World, job: Job, machine: Machine) -> None:
    """I4: nobody of a higher class could take this slot, but for a bounded share of the aged."""
    passed_over = [
        other
        for other in world.waiting.values()
        if could_run(world, other, machine)
        and not other.prefixes
        and (
            other.priority < job.priority
            or (
                (other.model, other.priority, other.tenant) == (job.model, job.priority, job.tenant)
                and other.ticket < job.ticket
                and not job.avoid
                and not other.avoid
            )
        )
    ]
    if passed_over:
        assert world.now_s - job.arrived_at_s >= world.policy.ageing_s, "I4"
        world.out_of_turn_count += 1
        placed_count = len(world.placed) + 1
        bound = world.policy.aged_share * placed_count + len(world.machines)
        assert world.out_of_turn_count <= bound, "I4: the aged have more than their share"


def check_books(world: World) -> None:
    """The scheduler's ledger is the world's, and every second is somebody's."""
    for name, books in world.scheduler.books(world.now_s).items():
        machine = world.machines[name]
        tenants = Counter(machine.tenants)
        for run in machine.running.values():
            tenants[run.job.tenant] += run.share_s  # type: ignore[assignment]
        assert abs(sum(books.tenants.values()) + books.idle_s + books.load_s - books.wall_s) < EPSILON_S
        assert abs(books.wall_s - world.now_s) < EPSILON_S
        assert abs(books.idle_s - machine.idle_s) < EPSILON_S
        assert abs(books.load_s - machine.load_s) < EPSILON_S
        assert all(
            abs(books.tenants.get(tenant, 0.0) - gpu_s) < EPSILON_S for tenant, gpu_s in tenants.items()
        )


def check_views(world: World) -> None:
    for name, machine in world.machines.items():
        assert world.scheduler.busy(name) == Counter(run.job.model for run in machine.running.values())
    assert world.scheduler.models_waited_for() == sorted({job.model for job in world.waiting.values()})
    for model in world.models:
        line, places = world.scheduler.line(model), world.scheduler.places(model, world.now_s)
        assert sorted(job.ticket for job in line) == sorted(job.ticket for job in waiting_for(world, model))
        assert [job.priority for job in line] == sorted(job.priority for job in line)
        assert [place.job for place in places] == line
        assert [place.ahead_count for place in places] == list(range(len(line)))
        assert [place.wait_s for place in places] == sorted(place.wait_s for place in places)


# What the world should know


def could_run(world: World, job: Job, machine: Machine) -> bool:
    """Whether the scheduler must know that `job` could run there now."""
    known = machine.sure - machine.victims - {machine.loading}
    if job.model not in known or machine.free_for(job.model) <= 0:
        return False
    return not avoids(world, job, machine) and not may_be_draining(world, machine)


def avoids(world: World, job: Job, machine: Machine) -> bool:
    return machine.spec.name in job.avoid and job.ticket not in world.returning


def let_return(world: World) -> None:
    """Nobody avoids an instance any more once no other one that is ready has the model."""
    for job in world.waiting.values():
        ready = {
            name
            for name, machine in world.machines.items()
            if machine.slots and job.model in machine.spec.models
        }
        if ready and ready <= job.avoid:
            world.returning.add(job.ticket)


def may_be_draining(world: World, machine: Machine) -> bool:
    """Whether another model may wait for what runs there to end."""
    if machine.loading or machine.unloading:
        return bool(machine.unloading) or not machine.spec.known
    return bool(machine.running) and any(
        job.model in machine.spec.models.keys() - machine.sure for job in world.waiting.values()
    )


def waiting_for(world: World, model: str) -> list[Job]:
    gone = {job.ticket for job in world.displaced}
    return [job for job in world.waiting.values() if job.model == model and job.ticket not in gone]


def is_full(world: World, job: Job) -> bool:
    return len(waiting_for(world, job.model)) >= world.policy.waiting_max or batch_is_full(world, job)


def batch_is_full(world: World, job: Job) -> bool:
    batch_max = max(1, int(world.policy.waiting_max * world.policy.batch_waiting_share))
    batch = [other for other in waiting_for(world, job.model) if other.priority is Priority.BATCH]
    return job.priority is Priority.BATCH and len(batch) >= batch_max


def gives_way(world: World, loser: Job, winner: Job) -> bool:
    """Whether `winner` may have the place of `loser`; of several, who must give way is not said here."""
    waiting = waiting_for(world, winner.model)
    if loser.avoid:
        return False
    if batch_is_full(world, winner):
        counts = Counter(job.tenant for job in waiting if job.priority is Priority.BATCH)
        return loser.priority is Priority.BATCH and counts[loser.tenant] > 2 * (counts[winner.tenant] + 1)
    counts = Counter(job.tenant for job in waiting)
    if loser.tenant != winner.tenant and counts[loser.tenant] > 2 * (counts[winner.tenant] + 1):
        return True
    spared = loser.tenant != winner.tenant and counts[winner.tenant] + 1 > 2 * counts[loser.tenant]
    return loser.priority > winner.priority and not spared
