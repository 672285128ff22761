"""Where a job runs: fast before slow, free before full, and back to the instance that holds its prefix."""

from itertools import count
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from services.inference.core.decisions import Dispatch
from services.inference.core.estimates import Estimates
from services.inference.core.hosts import Capacity
from services.inference.core.jobs import Job, Priority
from services.inference.core.policy import Policy
from services.inference.core.prefixes import Prefix
from services.inference.core.scheduler import Scheduler
from services.inference.core.usage import Usage

tickets = count()
TALK = (Prefix(key="talk", token_count=1_000),)


def job(prefixes: tuple[Prefix, ...] = (), **given: object) -> Job:
    traits: dict[str, object] = {
        "arrived_at_s": 0.0,
        "expires_at_s": inf,
        "prompt_token_count": 1_000,
        "output_token_max": 100,
    }
    return Job(
        ticket=next(tickets),
        tenant="a",
        model="m",
        priority=Priority.DEFAULT,
        prefixes=prefixes,
        **traits | given,  # type: ignore[arg-type]
    )


def fleet(
    *names: str,
    slots: int = 1,
    prefill_token_s: float = 0.005,
    output_s: float = 1.0,
    policy: Policy | None = None,
) -> Scheduler:
    """Instances that have the model; of its speed so much is known."""
    estimates = Estimates()
    usage = Usage(
        prompt_token_count=1_000, prompt_s=1_000 * prefill_token_s, output_token_count=100, output_s=output_s
    )
    for _ in range(8):
        estimates.learn_work("m", "gpu-0", "a", usage=usage, reused_token_count=0, batch=1.0)
    made = Scheduler(policy or Policy(), estimates)
    for name in names:
        made.observe(Capacity(instance=name, slots=slots, models={"m": 1}, loaded={"m": 1}), 0.0)
    return made


def where(made: Scheduler, waiting: Job, now_s: float) -> str | None:
    made.submit(waiting, now_s)
    return next((one.instance for one in made.decide(now_s) if isinstance(one, Dispatch)), None)


def test_a_conversation_goes_back_to_where_its_prefix_is() -> None:
    made = fleet("gpu-0", "gpu-1", slots=2)
    filler = job()
    assert where(made, filler, 0.0) == "gpu-0"
    talk = job(TALK)
    assert where(made, talk, 0.0) == "gpu-1", "the emptier one"
    made.end(talk.ticket, None, 1.0)
    made.end(filler.ticket, None, 1.0)
    assert where(made, job(TALK), 2.0) == "gpu-1"


def test_it_waits_for_it_if_that_is_sooner_done_than_starting_over() -> None:
    made = fleet("gpu-0", "gpu-1")
    first = job(TALK)
    assert where(made, first, 0.0) == "gpu-0"
    made.end(first.ticket, None, 6.0)
    other = job()
    assert where(made, other, 6.0) == "gpu-0"
    second = job(TALK)
    assert where(made, second, 10.5) is None, (
        "gpu-1 is free, but to read all takes 5 s; gpu-0 is free in 1.5 s"
    )
    third = job()
    assert where(made, third, 10.5) == "gpu-1", "nobody else waits for that"
    made.end(other.ticket, None, 12.0)
    assert [one.instance for one in made.decide(12.0) if isinstance(one, Dispatch)] == ["gpu-0"]


def test_it_does_not_wait_if_starting_over_is_cheap() -> None:
    made = fleet("gpu-0", "gpu-1", prefill_token_s=0.0001)
    assert where(made, job(TALK), 0.0) == "gpu-0"
    assert where(made, job(TALK), 0.0) == "gpu-1"


@given(free_in_s=st.floats(0.05, 20.0), prefill_token_s=st.floats(0.0001, 0.02), lasts_s=st.floats(0.0, 30.0))
def test_a_hold_is_worth_it_and_lapses(free_in_s: float, prefill_token_s: float, lasts_s: float) -> None:
    """However wrong the prediction was, the job waits no longer than twice what was to be waited."""
    policy = Policy()
    made = fleet("gpu-0", "gpu-1", prefill_token_s=prefill_token_s, policy=policy)
    busy_s = 1_000 * prefill_token_s + 1.0
    start_s = max(0.0, busy_s - free_in_s)
    free_in_s = busy_s - start_s
    assert where(made, job(TALK), 0.0) == "gpu-0"  # It never ends.
    held = job(TALK, arrived_at_s=start_s, expires_at_s=start_s + lasts_s + 1e-6)
    name = where(made, held, start_s)
    if name is not None:
        assert name == "gpu-1"
        return
    assert free_in_s <= policy.hold_max_s
    assert free_in_s <= lasts_s + 1e-6
    assert free_in_s * policy.hold_gain < 1_000 * prefill_token_s, "it would have been done there first"
    lapses_s = made.next_wakeup_s()
    assert lapses_s is not None
    until_s = start_s + 2 * free_in_s + 0.06
    outcomes = [
        one for step in range(60) for one in made.decide(start_s + (until_s - start_s) * (step + 1) / 60)
    ]
    assert held.ticket not in {waiting.ticket for waiting in made.line("m")}
    if held.expires_at_s > until_s:
        assert [one.instance for one in outcomes if isinstance(one, Dispatch)] == ["gpu-1"]


def test_holds_are_bounded() -> None:
    made = fleet("gpu-0", "gpu-1", slots=1, policy=Policy(holds_max=3))
    assert where(made, job(TALK), 0.0) == "gpu-0"
    names = [where(made, job(TALK), 4.5) for _ in range(4)]
    assert names == [None, None, None, "gpu-1"]


def test_a_job_that_left_an_instance_is_not_held_for_another() -> None:
    made = fleet("gpu-0", "gpu-1", "gpu-2")
    assert where(made, job(TALK), 0.0) == "gpu-0"
    assert where(made, job(TALK, avoid=frozenset({"gpu-1"})), 4.5) == "gpu-2"


def test_of_a_model_with_fewer_slots_no_more_run_at_once() -> None:
    made = Scheduler(Policy(), Estimates())
    made.observe(
        Capacity(instance="gpu-0", slots=4, models={"m": 1}, loaded={"m": 1}, slots_of={"m": 1}), 0.0
    )
    assert where(made, job(), 0.0) == "gpu-0"
    assert where(made, job(), 0.0) is None
