"""Turns, cool-downs and claims: when a model may take another one's place."""

from itertools import count
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.core.decisions import Cause, Decision, Fail, Load, Unload
from services.inference.core.estimates import Estimates
from services.inference.core.hosts import Capacity
from services.inference.core.jobs import Job, Priority
from services.inference.core.policy import Policy
from services.inference.core.scheduler import Scheduler

LOAD_S = 2.0
SIZES = {"a": 4, "b": 4, "c": 4}
tickets = count()


def fleet(policy: Policy, *loaded: str, names: tuple[str, ...] = ("gpu",)) -> Scheduler:
    """Instances with memory for one model, each of which loads in 2 s."""
    estimates = Estimates()
    for model in SIZES:
        estimates.learn_load(model, "gpu", LOAD_S)
    made = Scheduler(policy, estimates)
    for name in names:
        seen = Capacity(instance=name, slots=1, models=SIZES, loaded=dict.fromkeys(loaded, 4), vram_bytes=6)
        made.observe(seen, 0.0)
    return made


def ask(made: Scheduler, model: str, now_s: float, *, priority: Priority = Priority.DEFAULT) -> Job:
    asked = Job(
        ticket=next(tickets), tenant="t", model=model, priority=priority, arrived_at_s=now_s, expires_at_s=inf
    )
    made.submit(asked, now_s)
    return asked


def until(made: Scheduler, wanted: type[Decision], start_s: float, end_s: float) -> float | None:
    """Return when such a decision comes, deciding whenever asked to."""
    now_s = start_s
    while now_s <= end_s:
        if any(isinstance(decision, wanted) for decision in made.decide(now_s)):
            return now_s
        wakeup_s = made.next_wakeup_s()
        if wakeup_s is None:
            return None
        now_s = max(now_s + 0.001, wakeup_s)
    return None


@given(turn_loads=st.floats(0.5, 10.0), turn_min_s=st.floats(0.0, 10.0))
def test_who_has_work_keeps_its_place_for_a_turn(turn_loads: float, turn_min_s: float) -> None:
    policy = Policy(turn_loads=turn_loads, turn_min_s=turn_min_s, ageing_s=inf)
    made = fleet(policy, "a")
    for _ in range(3):
        ask(made, "a", 0.0)
    ask(made, "b", 0.0)
    running = made.decide(0.0)[-1]
    turn_s = max(turn_min_s, turn_loads * 2 * LOAD_S)
    # The swap begins at the end of the turn; from then on no more jobs for `a` start, and the last one ends.
    made.decide(turn_s - 0.001)
    made.end(running.job.ticket, None, turn_s - 0.001)  # type: ignore[union-attr]
    assert until(made, Unload, turn_s - 0.001, turn_s - 0.001) is None
    made = fleet(policy, "a")
    ask(made, "b", 0.0)
    ask(made, "a", 0.0)
    ask(made, "a", 0.0)
    (first,) = made.decide(0.0)
    assert until(made, Unload, 0.0, turn_s + 0.3) is None, "it still runs"
    made.end(first.job.ticket, None, turn_s + 0.3)  # type: ignore[union-attr]
    assert made.decide(turn_s + 0.3) == [Unload("gpu", "a")]
    made.unloaded("gpu", "a", turn_s + 0.4)
    assert made.decide(turn_s + 0.4) == [Load("gpu", "b", Cause.SWAP)]


def test_who_has_no_work_gives_way_soon() -> None:
    made = fleet(Policy(linger_loads=0.1), "a")
    ask(made, "b", 0.0)
    at_s = until(made, Unload, 0.0, 10.0)
    assert at_s == pytest.approx(0.1 * 2 * LOAD_S, abs=0.3)


def test_what_runs_is_work_too() -> None:
    """Its caller is about to ask again; and nobody may wait in the moment in which the plan is looked over."""
    made = fleet(Policy(turn_loads=5.0), "a")
    asked = ask(made, "a", 0.0)
    made.decide(0.0)
    ask(made, "b", 0.1)
    for _ in range(20):
        now_s = asked.arrived_at_s + 0.7
        made.decide(now_s)
        made.end(asked.ticket, None, now_s)
        asked = ask(made, "a", now_s)
        made.decide(now_s)
    assert made.busy("gpu") == {"a": 1}
    assert until(made, Unload, asked.arrived_at_s, 20.0 + LOAD_S) is None


@pytest.mark.parametrize(("rival", "within"), [(Priority.BATCH, None), (Priority.INTERACTIVE, 0.2)])
def test_classes_have_longer_and_shorter_turns(rival: Priority, within: float | None) -> None:
    made = fleet(Policy(turn_loads=5.0, ageing_s=100.0), "a")
    turn_s = 5.0 * 2 * LOAD_S
    asked = ask(made, "a", 0.0)
    ask(made, "a", 0.0)
    ask(made, "b", 0.0, priority=rival)
    made.decide(0.0)
    end_s = turn_s * (within or 4.0) + 0.3
    assert until(made, Unload, 0.0, end_s) is None
    made.end(asked.ticket, None, end_s)
    unloads = [one for one in made.decide(end_s) if isinstance(one, Unload)]
    assert bool(unloads) == (within is not None)


def test_of_a_lower_class_it_gets_its_place_when_it_has_aged() -> None:
    made = fleet(Policy(turn_loads=1.0, ageing_s=30.0), "a")
    first = ask(made, "a", 0.0, priority=Priority.INTERACTIVE)
    ask(made, "a", 0.0, priority=Priority.INTERACTIVE)
    ask(made, "b", 0.0, priority=Priority.BATCH)
    made.decide(0.0)
    assert until(made, Unload, 0.0, 30.3) is None
    made.end(first.ticket, None, 30.3)
    assert made.decide(30.3) == [Unload("gpu", "a")]


def test_the_place_goes_to_who_has_waited_longest() -> None:
    """Not to the first in the alphabet, nor to whoever asks at the right moment."""
    made = fleet(Policy(turn_loads=2.0, ageing_s=inf), "a")
    asked = ask(made, "a", 0.0)
    ask(made, "a", 0.0)
    made.decide(0.0)
    ask(made, "c", 0.1)
    for _ in range(3):
        ask(made, "b", 0.2)
    now_s = 0.2
    while now_s < 7.9:
        made.decide(now_s)
        now_s += 0.01
    made.end(asked.ticket, None, 8.0)
    made.withdraw(made.line("a")[0].ticket)  # Its queue is empty between two looks at the plan.
    ask(made, "b", 8.0)
    made.decide(8.0)
    at_s = until(made, Unload, 8.0, 10.0)
    if at_s is not None:
        made.unloaded("gpu", "a", at_s)
    assert [one.model for one in made.decide(10.0) if isinstance(one, Load)] == ["c"]


@given(st.integers(1, 12))
def test_a_failed_load_is_tried_again_later_and_later(failure_count: int) -> None:
    policy = Policy(load_retry_s=1.0, load_retry_max_s=60.0)
    made = fleet(policy)
    now_s = 0.0
    for number in range(failure_count):
        ask(made, "a", now_s)
        loads = [one for one in made.decide(now_s) if isinstance(one, Load)]
        assert loads == [Load("gpu", "a", Cause.DEMAND)]
        made.loaded("gpu", "a", ok=False, load_s=0.5, now_s=now_s)
        told = made.decide(now_s)
        delay_s = min(2.0**number, 60.0)
        if number == 0:
            assert not told, "once may be an accident"
        else:
            assert {type(one) for one in told} == {Fail}, "no instance is left to load it"
            early = ask(made, "a", now_s + delay_s - 0.01)
            assert made.decide(now_s + delay_s - 0.01) == [Fail(early)]
        now_s += delay_s
    ask(made, "a", now_s)
    made.decide(now_s)
    made.loaded("gpu", "a", ok=True, load_s=2.0, now_s=now_s)
    assert made.busy("gpu") == {} or made.decide(now_s)


def test_with_another_instance_left_it_is_loaded_there() -> None:
    made = fleet(Policy(), names=("gpu-0", "gpu-1"))
    ask(made, "a", 0.0)
    (load,) = made.decide(0.0)
    assert load == Load("gpu-0", "a", Cause.DEMAND)
    made.loaded("gpu-0", "a", ok=False, load_s=0.5, now_s=0.5)
    assert made.decide(0.5) == [Load("gpu-1", "a", Cause.DEMAND)]


def test_a_swap_is_given_up_when_nobody_waits_for_it_any_more() -> None:
    made = fleet(Policy(turn_loads=0.0, turn_min_s=0.0), "a")
    ask(made, "a", 0.0)
    made.decide(0.0)
    rival = ask(made, "b", 0.1)
    made.decide(0.1)
    waiting = ask(made, "a", 0.2)
    assert made.decide(0.2) == [], "a is on its way out"
    made.withdraw(rival.ticket)
    made.decide(0.3)
    first = next(ticket for ticket in range(waiting.ticket) if ticket in made._running)
    made.end(first, None, 0.4)
    assert [one.job for one in made.decide(0.4) if not isinstance(one, Load | Unload)] == [waiting]


def test_a_long_queue_spreads_to_an_idle_instance_and_a_short_one_does_not() -> None:
    policy = Policy(waiting_max=1_000)
    made = fleet(policy, names=("gpu-0", "gpu-1"))
    ask(made, "a", 0.0)
    made.decide(0.0)
    made.loaded("gpu-0", "a", ok=True, load_s=LOAD_S, now_s=2.0)
    ask(made, "a", 2.0)
    made.decide(2.0)
    assert until(made, Load, 2.0, 4.0) is None
    for _ in range(200):
        ask(made, "a", 4.0)
    at_s = until(made, Load, 4.0, 5.0)
    assert at_s is not None


def test_what_is_being_loaded_is_not_loaded_elsewhere_too() -> None:
    made = fleet(Policy(), names=("gpu-0", "gpu-1"))
    ask(made, "a", 0.0)
    assert made.decide(0.0) == [Load("gpu-0", "a", Cause.DEMAND)]
    assert until(made, Load, 0.1, 1.5) is None


def test_a_load_that_is_overdue_does_not_keep_the_model_from_another_instance() -> None:
    made = fleet(Policy(turn_min_s=0.0, turn_loads=0.0), "b", names=("gpu-0", "gpu-1"))
    ask(made, "a", 0.0)
    began_s = until(made, Unload, 0.0, 5.0)
    assert began_s is not None
    made.unloaded("gpu-0", "b", 50.0)  # The time that making room took is not the load's.
    assert made.decide(50.0) == [Load("gpu-0", "a", Cause.SWAP)]
    overdue_s = 50.0 + 3 * LOAD_S + 10.0
    assert until(made, Unload, 50.0, overdue_s) is None
    assert made.decide(overdue_s + 0.3) == [Unload("gpu-1", "b")]
    made.unloaded("gpu-1", "b", overdue_s + 0.4)
    assert made.decide(overdue_s + 0.4) == [Load("gpu-1", "a", Cause.SWAP)]
    assert until(made, Load, overdue_s + 0.5, overdue_s + 2.0) is None, "now it is coming again"


def test_a_wait_for_a_load_that_is_overdue_cannot_be_foreseen() -> None:
    made = fleet(Policy())
    ask(made, "a", 0.0)
    made.decide(0.0)
    assert [place.wait_s for place in made.places("a", 0.5)] == [LOAD_S - 0.5]
    assert [place.wait_s for place in made.places("a", 100.0)] == [inf]
