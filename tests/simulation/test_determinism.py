"""The same calls give the same decisions, byte for byte, in whatever order dicts and sets come."""

import random
import subprocess
import sys
from dataclasses import replace
from functools import partial
from hashlib import sha256

import pytest

from services.common.errors import MeshError
from services.inference.core.estimates import Estimates
from services.inference.core.hosts import Capacity
from services.inference.core.recording import RecordingScheduler
from services.inference.core.scheduler import Scheduler
from services.inference.simulation.replay import verify
from tests.simulation.journal import entry
from tests.simulation.machines import Spec
from tests.simulation.test_scheduler import DARK, POLICY, ROOMY, TIGHT
from tests.simulation.world import World

HASHED_SEEDS = 2


def lived(seed: int, specs: list[Spec]) -> World:
    world = World(seed, specs, POLICY)
    for _ in range(100):
        world.step()
    return world


def replayed(world: World) -> list[str]:
    """The log of the same calls, with what has no order in another order."""
    scheduler = Scheduler(POLICY, Estimates())
    log: list[str] = []
    first = len(world.machines)
    for method, args, named in [*reversed(world.calls[:first]), *world.calls[first:]]:
        given = [turned(arg) if isinstance(arg, Capacity) else arg for arg in args]
        try:
            returned = getattr(scheduler, method)(*given, **named)
        except MeshError as error:
            log.append(entry(args[1], error))
        else:
            log += [entry(args[0], decision) for decision in returned] if method == "decide" else []
    return log


def turned(capacity: Capacity) -> Capacity:
    return replace(
        capacity,
        models=dict(reversed(list(capacity.models.items()))),
        loaded=dict(reversed(list(capacity.loaded.items()))),
    )


def test_no_decision_depends_on_the_order_of_what_has_none(seed: int) -> None:
    world = lived(seed, (ROOMY, TIGHT, DARK)[seed % 3])
    assert len(world.log) > 50
    assert replayed(world) == world.log


@pytest.mark.parametrize("specs", [ROOMY, TIGHT, DARK], ids=["roomy", "tight", "dark"])
def test_what_is_asked_leaves_no_trace(seed: int, specs: list[Spec]) -> None:
    """A running service is asked for books, lines and places all the time, of which a recording says nothing."""
    text: list[str] = []
    world = World(seed, specs, POLICY, made=partial(RecordingScheduler, write=text.append, alias=str))
    chance = random.Random(seed)

    def ask() -> None:
        world.scheduler.books(world.now_s)
        for model in world.models:
            world.scheduler.line(model)
            world.scheduler.places(model, world.now_s)
        for name in world.machines:
            world.scheduler.queued_count(name)
        world.at(chance.expovariate(10.0), ask)

    ask()
    for _ in range(100):
        world.step()
    lines = "".join(text).splitlines(keepends=True)
    verdict = verify(lines)
    assert (verdict.difference, verdict.note, verdict.line_count) == ("", "", len(lines))


def digest() -> str:
    logs = ["\n".join(lived(seed, specs).log) for seed in range(HASHED_SEEDS) for specs in (TIGHT, DARK)]
    return sha256("\n".join(logs).encode()).hexdigest()


def test_no_decision_depends_on_hashes() -> None:
    program = "from tests.simulation.test_determinism import digest; print(digest())"
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert digests == {digest()}
