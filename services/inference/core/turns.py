"""Whose turn it is, of all models' queues together: by right, or for having waited too long.

Ageing is counted by instance: of every 1/aged_share placements there one goes to the aged, the oldest first. So
a job that has aged, and before which k older ones could run on the same instance, runs within about
(k + 1) / aged_share placements there, whatever else is asked for. Were it counted over all instances, those
that are free more often could use up what would be its share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.inference.core.hosts import Host
from services.inference.core.jobs import Job
from services.inference.core.policy import Policy
from services.inference.core.queues import Queue


@dataclass(frozen=True, slots=True)
class Turn:
    job: Job
    hosts: Sequence[Host]  # Where it may be placed.
    aged: bool = False


def next_turn(queues: Mapping[str, Queue], hosts_of: Mapping[str, Sequence[Host]]) -> Turn | None:
    """Return who goes next by right. `hosts_of`: by model, which instances would take a job."""
    found = [
        (*first, hosts)
        for model, hosts in hosts_of.items()
        if (first := queues[model].first([host.name for host in hosts]))
    ]
    if not found:
        return None
    _, job, hosts = min(found, key=lambda each: each[0])
    return Turn(job, hosts)


def next_aged_turn(
    queues: Mapping[str, Queue], hosts_of: Mapping[str, Sequence[Host]], policy: Policy, now_s: float
) -> Turn | None:
    """Return who has waited longest, and too long, where the next placement may be one of the aged."""
    found = [
        Turn(job, ripe, aged=True)
        for model, hosts in hosts_of.items()
        if (ripe := [host for host in hosts if host.placed_since_aged_count + 1 >= policy.aged_every])
        and (job := queues[model].oldest([host.name for host in ripe])) is not None
        and now_s - job.arrived_at_s >= policy.ageing_s
    ]
    return min(found, key=lambda turn: turn.job.ticket) if found else None
