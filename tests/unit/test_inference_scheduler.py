"""What the scheduler's simulation cannot see: bounds on its memory, and shares over many pauses."""

from collections import Counter
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from services.inference.core.expiries import Expiries
from services.inference.core.retries import RetryBudget
from services.inference.core.scheduler import Capacity, Dispatch, Job, Priority, Scheduler
from services.inference.core.shares import Shares

tickets = count()


def job(tenant: str = "a", *, priority: Priority = Priority.DEFAULT) -> Job:
    return Job(
        ticket=next(tickets),
        tenant=tenant,
        model="tiny:latest",
        priority=priority,
        arrived_at_s=0.0,
        expires_at_s=1e9,
    )


def scheduler(*, slots: int, waiting_max: int = 1000) -> Scheduler:
    made = Scheduler(waiting_max=waiting_max)
    made.observe(Capacity(instance="gpu", slots=slots, models=frozenset({"tiny:latest"})))
    return made


def test_asking_one_at_a_time_is_no_way_round_a_queue() -> None:
    """A tenant whose jobs come singly gets as much as one that queues a hundred, and no more."""
    only_slot = scheduler(slots=1)
    for _ in range(100):
        only_slot.submit(job("patient"))
    served: Counter[str] = Counter()
    only_slot.submit(job("single"))
    running: Job | None = None
    for _ in range(60):
        if running is not None:
            only_slot.withdraw(running.ticket)
        (decision,) = only_slot.decide(0.0)
        running = decision.job
        served[running.tenant] += 1
        if running.tenant == "single":
            only_slot.submit(job("single"))
    assert abs(served["single"] - served["patient"]) <= 2


def test_batch_takes_idle_slots_only() -> None:
    one_slot = scheduler(slots=1)
    batch, interactive, default = (
        job(priority=priority) for priority in (Priority.BATCH, Priority.INTERACTIVE, Priority.DEFAULT)
    )
    for waiting in (batch, default, interactive):
        one_slot.submit(waiting)
    order = []
    for _ in range(3):
        (decision,) = one_slot.decide(0.0)
        assert isinstance(decision, Dispatch)
        order.append(decision.job)
        one_slot.withdraw(decision.job.ticket)
    assert order == [interactive, default, batch]


def test_without_contention_no_history_is_kept() -> None:
    shares = Shares()
    for number in range(1000):
        shares.enter(f"tenant {number}")
        shares.charge(f"tenant {number}")
        shares.leave(f"tenant {number}")
    assert not shares._times
    assert not shares._waiting


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
