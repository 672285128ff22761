"""A fleet's bad days in virtual time: bursts, walk-aways, failures, instances that flap, load, evict, and are used
by others; with memory for all models, for some, and unknown. Replay: -k seed17.

World keeps its own books: a checker that asked the scheduler would believe its mistakes. These mutants of
services/inference/core were planted one by one, and each was caught by the simulations in this folder:

  places: a slot too many; a finished job keeps its slot; failed instances are not avoided; a model's own slots are
    ignored; what an unsure load may have evicted counts as loaded; a model on its way out still gets jobs
  turns: the worst right goes first; priorities of jobs beside their lane are ignored; weights are ignored;
    predictions are not corrected; the aged always go first, use up no share, or everybody or nobody ages; the
    oldest, for whom no instance will do, hides the others
  bounds: a waiting place too many; no bound for batch; a lower class pushes out a higher one; withdrawn jobs are
    served; jobs expire a moment late
  loads: two at once; victims are unloaded while they run; loads do not wait for unloads; nobody keeps its turn;
    known memory is not looked at; what did not fit is not learned
  books: each job is charged the whole instance

and these by tests/unit/test_inference_{scheduler,queues,shares,hosts,residency,placement}.py: the oldest gives way;
the idle save up their share; the present never moves; a refund brings no turn forward; failed loads are
repeated at once; the first in the alphabet is loaded first; a look that began before a load, or an unload,
counts; who was pushed out and left is decided about.
"""

import pytest

from services.inference.core.policy import Policy
from tests.simulation.invariants import check_books, check_views
from tests.simulation.machines import Spec
from tests.simulation.world import World

SIZES = {"a": 6, "b": 5, "c": 3, "d": 2}
ROOMY = [
    Spec(name="gpu-0", slots=2, models={"a": 6, "b": 5}),
    Spec(name="gpu-1", slots=1, models={"b": 5, "c": 3}),
    Spec(name="gpu-2", slots=4, models={"a": 6, "c": 3, "d": 2}, slots_of={"a": 2}),
]
TIGHT = [
    Spec(name="gpu-0", slots=2, models=SIZES, vram_bytes=6),
    Spec(name="gpu-1", slots=2, models=SIZES, vram_bytes=8),
    Spec(name="gpu-2", slots=4, models={"a": 6, "d": 2}, vram_bytes=6),
]
DARK = [
    Spec(name="gpu-0", slots=2, models=SIZES, vram_bytes=8, known=False),
    Spec(name="gpu-1", slots=1, models=SIZES, vram_bytes=11, known=False),
]
STEPS = 150
POLICY = Policy(waiting_max=6, ageing_s=8.0, turn_min_s=1.0, turn_loads=2.0)


@pytest.mark.parametrize("specs", [ROOMY, TIGHT, DARK], ids=["roomy", "tight", "dark"])
def test_a_bad_day_breaks_no_invariant(seed: int, specs: list[Spec]) -> None:
    world = World(seed, specs, POLICY)
    for _ in range(STEPS):
        world.step()
        check_books(world)
        check_views(world)
