"""Figures say what they should: which way a goal lies, and what is written of them."""

import pytest

from tests.bench.overload import goodput
from tests.bench.support.report import Figure
from tests.bench.support.traffic import LATE, OK, Answer


@pytest.mark.parametrize(
    ("value", "at_least", "holds"),
    [(1.0, False, True), (3.0, False, False), (1.0, True, False), (3.0, True, True)],
)
def test_a_goal_is_a_ceiling_or_a_floor(*, value: float, at_least: bool, holds: bool) -> None:
    assert Figure(name="a", value=value, unit="s", goal=2.0, at_least=at_least).holds is holds


def test_a_figure_without_a_goal_holds_nothing() -> None:
    assert Figure(name="a", value=1.0, unit="s").holds is None


def test_what_is_written_has_the_public_names_only() -> None:
    row = Figure(name="a", value=1.0, unit="s", baseline=2.0, goal=0.5, at_least=True).row
    assert row == {
        "name": "a",
        "value": 1.0,
        "unit": "s",
        "baseline": 2.0,
        "ratio": 0.5,
        "goal": 0.5,
        "holds": True,
    }


def answer(ended_s: float, *, at_s: float = 0.0, verdict: str = OK) -> Answer:
    return Answer(
        kind="",
        tenant="a",
        at_s=at_s,
        began_s=at_s,
        first_s=-1,
        ended_s=ended_s,
        deadline_s=1.0,
        verdict=verdict,
    )


def test_goodput_counts_what_was_in_time_within_the_phase_once_it_is_under_way() -> None:
    answers = [
        answer(0.5),  # Too early to count,
        answer(2.0, at_s=1.5),
        answer(2.9, at_s=1.5),  # late,
        answer(2.0, at_s=1.9, verdict=LATE),  # not answered,
        answer(3.2, at_s=2.9),  # after the phase.
    ]
    assert goodput(answers, lasting_s=3.0) == 1 / 2.0
