"""Admission and upkeep of the scheduler: what the simulations do not see, or see too seldom."""

from dataclasses import replace
from itertools import count
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.core.decisions import Decision, Dispatch, Displace, Load
from services.inference.core.estimates import Estimates
from services.inference.core.expiries import Expiries
from services.inference.core.hosts import Capacity
from services.inference.core.jobs import Job, Priority
from services.inference.core.policy import Policy
from services.inference.core.prefixes import Prefix
from services.inference.core.retries import RetryBudget
from services.inference.core.scheduler import Scheduler
from services.inference.core.usage import Usage
from services.inference.errors import DeadlineUnreachable, QueueFull

tickets = count()
MEASURED = Usage(prompt_token_count=100, prompt_s=0.5, output_token_count=100, output_s=2.0)


def job(tenant: str = "a", *, priority: Priority = Priority.DEFAULT, **given: object) -> Job:
    traits: dict[str, object] = {"expires_at_s": inf, "arrived_at_s": 0.0, "model": "tiny"}
    return Job(ticket=next(tickets), tenant=tenant, priority=priority, **traits | given)  # type: ignore[arg-type]


def scheduler(policy: Policy | None = None, *, slots: int = 1, loaded: bool = True) -> Scheduler:
    made = Scheduler(policy or Policy(), Estimates())
    made.observe(
        Capacity(
            instance="gpu",
            slots=slots,
            models={"tiny": 1},
            loaded={"tiny": 1} if loaded else {},
            asked_at_s=0.0,
        ),
        0.0,
    )
    return made


def placed(decisions: list[Decision]) -> list[Job]:
    return [decision.job for decision in decisions if isinstance(decision, Dispatch)]


def measured(made: Scheduler) -> Scheduler:
    """After one answer of 2.5 s."""
    first = job()
    made.submit(first, 0.0)
    made.decide(0.0)
    made.end(first.ticket, MEASURED, 2.5)
    return made


def test_batch_takes_idle_slots_only() -> None:
    one_slot = scheduler()
    jobs = [job(priority=priority) for priority in (Priority.BATCH, Priority.DEFAULT, Priority.INTERACTIVE)]
    for waiting in jobs:
        one_slot.submit(waiting, 0.0)
    order = []
    for now_s in range(3):
        (running,) = placed(one_slot.decide(float(now_s)))
        order.append(running)
        one_slot.end(running.ticket, None, float(now_s))
    assert order == jobs[::-1]


def test_how_long_a_prompt_is_read_counts_what_may_be_reused_and_is_no_guess() -> None:
    made = scheduler()
    asked = [
        job(prompt_token_count=1000, prefixes=(Prefix(key="system", token_count=900),)) for _ in range(3)
    ]
    expected_s = []
    for now_s, waiting in enumerate(asked):
        made.submit(waiting, float(now_s))
        made.decide(float(now_s))
        expected_s.append(made.reading_s(waiting.ticket))
        made.end(waiting.ticket, MEASURED if now_s == 0 else None, float(now_s))
    assert expected_s == [inf, pytest.approx(5.0), pytest.approx(5.0)]


@given(st.integers(1, 8), st.floats(0.0, 1.0))
def test_waiting_places_are_bounded(waiting_max: int, batch_share: float) -> None:
    policy = Policy(waiting_max=waiting_max, batch_waiting_share=batch_share)
    made = scheduler(policy, loaded=False)
    batch_max = min(waiting_max, max(1, int(waiting_max * batch_share)))
    for _ in range(batch_max):
        made.submit(job(priority=Priority.BATCH), 0.0)
    with pytest.raises(QueueFull) as refused:
        made.submit(job(priority=Priority.BATCH), 0.0)
    assert refused.value.retry_after_s is not None
    assert refused.value.retry_after_s >= 1.0
    for _ in range(waiting_max - batch_max):
        made.submit(job(), 0.0)
    assert len(made.line("tiny")) == waiting_max
    for _ in range(waiting_max):
        made.submit(job(priority=Priority.INTERACTIVE), 0.0)
    assert len(made.line("tiny")) == waiting_max
    assert {waiting.priority for waiting in made.line("tiny")} == {Priority.INTERACTIVE}
    with pytest.raises(QueueFull):
        made.submit(job(priority=Priority.INTERACTIVE), 0.0)
    displaced = [decision for decision in made.decide(0.0) if isinstance(decision, Displace)]
    assert len(displaced) == waiting_max


def test_who_takes_up_most_gives_way_within_a_class() -> None:
    for priority in Priority:
        made = scheduler(Policy(waiting_max=8), slots=0)
        places = 4 if priority is Priority.BATCH else 8
        greedy = [job("greedy", priority=priority) for _ in range(places)]
        for waiting in greedy:
            made.submit(waiting, 0.0)
        made.submit(job("light", priority=priority), 0.0)
        assert made.decide(0.0) == [Displace(greedy[-1], places)], "its youngest"


def test_who_calls_all_urgent_keeps_nobody_out() -> None:
    made = scheduler(Policy(waiting_max=9), slots=0)
    urgent = [job("loud", priority=Priority.INTERACTIVE) for _ in range(9)]
    for waiting in urgent:
        made.submit(waiting, 0.0)
    quiet = [job("quiet") for _ in range(3)]
    for waiting in quiet:
        made.submit(waiting, 0.0)
    for more in (job("quiet"), job("loud", priority=Priority.INTERACTIVE)):
        with pytest.raises(QueueFull):
            made.submit(more, 0.0)
    assert made.decide(0.0) == [Displace(loser, 9) for loser in urgent[:-4:-1]]
    assert made.line("tiny") == [*urgent[:-3], *quiet]


def test_who_was_promised_an_answer_gives_way_to_nobody() -> None:
    made = scheduler(Policy(waiting_max=3), slots=0)
    for priority in (Priority.BATCH, Priority.DEFAULT, Priority.INTERACTIVE):
        made.submit(job("greedy", priority=priority, avoid=frozenset({"other"})), 0.0)
    with pytest.raises(QueueFull):
        made.submit(job("light", priority=Priority.INTERACTIVE), 0.0)


def test_who_comes_back_with_more_time_has_it() -> None:
    made = scheduler()
    first = job(expires_at_s=5.0, deadline_at_s=60.0)
    made.submit(first, 0.0)
    made.decide(0.0)
    made.end(first.ticket, None, 3.0)
    other = Capacity(instance="other", slots=0, models={"tiny": 1}, asked_at_s=3.0)
    made.observe(other, 3.0)
    again = replace(first, avoid=frozenset({"gpu"}), expires_at_s=60.0)
    made.observe(replace(other, slots=1), 3.0)
    made.submit(again, 3.0)
    made.decide(5.0)
    assert made.line("tiny") == [again]
    made.decide(60.0)
    assert made.line("tiny") == []


def test_a_failed_instance_is_better_than_none() -> None:
    """The only other one goes away while the one to avoid is well again."""
    made = scheduler()
    other = Capacity(instance="other", slots=1, models={"tiny": 1}, asked_at_s=0.0)
    made.observe(other, 0.0)
    back = job(avoid=frozenset({"gpu"}))
    made.submit(back, 0.0)
    assert placed(made.decide(0.0)) == []
    made.observe(replace(other, slots=0, asked_at_s=1.0), 1.0)
    assert made.decide(1.0) == [Dispatch(back, "gpu")]


def test_nothing_is_decided_of_a_displaced_job_that_has_left() -> None:
    made = scheduler(Policy(waiting_max=1), slots=0)
    batch = job(priority=Priority.BATCH)
    made.submit(batch, 0.0)
    made.submit(job(), 0.0)
    made.withdraw(batch.ticket)
    assert made.decide(0.0) == []


def test_a_review_of_many_models_is_no_reason_to_be_busy() -> None:
    """One that takes longer than its period, as one model is looked over at a time."""
    models = [f"model-{number:03}" for number in range(300)]
    made = Scheduler(Policy(plan_every_s=0.25), Estimates())
    made.observe(Capacity(instance="gpu", slots=1, models=dict.fromkeys(models, 1), asked_at_s=0.0), 0.0)
    for model in models:
        made.submit(job(model=model), 0.0)
    now_s = 0.0
    for _ in range(1000):
        made.decide(now_s)
        wakeup_s = made.next_wakeup_s()
        assert wakeup_s is not None
        now_s = max(now_s, wakeup_s)
    assert now_s > 0.9, "it asks again at once, for nothing"


def test_nobody_is_refused_for_a_guess() -> None:
    made = scheduler(slots=1)
    for _ in range(50):
        made.submit(job(deadline_at_s=0.001, output_token_max=10_000), 0.0)
    assert len(made.line("tiny")) == 50


def test_what_would_be_late_by_what_was_measured_is_refused() -> None:
    made = measured(scheduler())
    made.submit(job(arrived_at_s=2.5), 2.5)
    made.decide(2.5)
    made.submit(job(arrived_at_s=2.5), 2.5)
    for late in (job(arrived_at_s=2.5, deadline_at_s=4.5), job(arrived_at_s=2.5, expires_at_s=3.0)):
        with pytest.raises(DeadlineUnreachable) as refused:
            made.submit(late, 2.5)
        assert refused.value.retry_after_s is not None
        assert refused.value.retry_after_s > 0
    made.submit(job(arrived_at_s=2.5, deadline_at_s=4.5, avoid=frozenset({"other"})), 2.5)  # It was promised.
    made.submit(job(arrived_at_s=2.5, deadline_at_s=30.0), 2.5)
    assert len(made.line("tiny")) == 3


def test_a_free_slot_is_never_too_late() -> None:
    made = measured(scheduler())
    late = job(arrived_at_s=3.0, deadline_at_s=3.001)
    made.submit(late, 3.0)
    assert placed(made.decide(3.0)) == [late]


def test_refused_for_the_time_that_loading_takes_it_is_loaded_all_the_same() -> None:
    made = measured(scheduler())
    made.observe(Capacity(instance="gpu", slots=1, models={"tiny": 1}, asked_at_s=3.0), 3.0)
    made.submit(job(arrived_at_s=3.0), 3.0)
    made.decide(3.0)
    made.loaded("gpu", "tiny", ok=True, load_s=20.0, now_s=23.0)
    (running,) = placed(made.decide(23.0))
    made.end(running.ticket, MEASURED, 24.0)
    made.observe(Capacity(instance="gpu", slots=1, models={"tiny": 1}, asked_at_s=25.0), 25.0)
    with pytest.raises(DeadlineUnreachable):
        made.submit(job(arrived_at_s=25.0, deadline_at_s=26.0), 25.0)
    assert [type(decision) for decision in made.decide(25.0)] == [Load], "or it would be refused for ever"


def test_waits_that_were_predicted_too_short_are_corrected_once() -> None:
    """Compared are predictions without the correction: with it, it would settle at the root of what it should be."""
    estimates = Estimates()
    made = Scheduler(Policy(waiting_max=1_000), estimates)
    seen = Capacity(instance="gpu", slots=1, models={"tiny": 1}, loaded={"tiny": 1}, asked_at_s=0.0)
    made.observe(seen, 0.0)
    now_s, running = 0.0, None
    for _ in range(400):
        made.submit(job(arrived_at_s=now_s), now_s)
        if running is not None:  # It takes 3 times as long as it says, so that no estimate can be right.
            now_s += 7.5
            made.end(running.ticket, MEASURED, now_s)
        (running,) = placed(made.decide(now_s))
        made.submit(job(arrived_at_s=now_s), now_s) if len(made.line("tiny")) < 2 else None
    assert estimates.wait_correction("tiny") == pytest.approx(3.0, rel=0.25)


def test_jobs_that_start_at_once_leave_no_deadlines_behind() -> None:
    waiting: set[int] = set()
    expiries = Expiries(waiting.__contains__)
    for ticket in range(10_000):
        expiries.add(ticket, 1e9)
    assert len(expiries._heap) <= 65


@given(
    st.lists(st.floats(0, 100), min_size=1), st.lists(st.tuples(st.integers(0), st.booleans()), max_size=400)
)
def test_deadlines_pass_in_order_whatever_comes_and_goes(
    deadlines: list[float], events: list[tuple[int, bool]]
) -> None:
    waiting: dict[int, float] = {}  # A ticket that comes back has its old deadline.
    expiries = Expiries(waiting.__contains__)
    for number, arrives in events:
        ticket = number % len(deadlines)
        if not arrives:
            waiting.pop(ticket, None)
        elif ticket not in waiting:
            waiting[ticket] = deadlines[ticket]
            expiries.add(ticket, deadlines[ticket])
        assert expiries.next_s() == min(waiting.values(), default=None)
    due = []
    while (first := expiries.pop_due(50.0)) is not None:
        due.append(waiting.pop(first))
    assert due == sorted(due)
    assert all(deadline > 50.0 for deadline in waiting.values())


def test_retries_are_at_most_a_fifth_of_what_is_asked() -> None:
    budget = RetryBudget()
    retried = 0
    for asked in range(1, 1001):
        budget.earn()
        retried += budget.spend()
        assert retried <= max(20, asked / 5)
    assert retried >= 100


def test_an_outage_stops_retries() -> None:
    budget = RetryBudget()
    assert sum(budget.spend() for _ in range(100)) == 10


def test_a_refund_brings_a_turn_forward() -> None:
    """A job that cost less than predicted; its tenant was in line behind one that had less until then."""
    made = scheduler()
    dear, cheap = [job("dear") for _ in range(2)], [job("cheap", output_token_max=50) for _ in range(2)]
    for waiting in (*dear, *cheap):
        made.submit(waiting, 0.0)
    assert placed(made.decide(0.0)) == [dear[0]]
    made.observe(Capacity(instance="gpu", slots=2, models={"tiny": 1}, loaded={"tiny": 1}), 0.0)
    assert placed(made.decide(0.0)) == [cheap[0]]
    made.end(dear[0].ticket, Usage(output_token_count=1, output_s=0.001), 0.01)
    assert placed(made.decide(0.01)) == [dear[1]]
