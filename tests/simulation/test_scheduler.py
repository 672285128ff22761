"""A fleet's bad days in virtual time."""

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
