"""What is foreseen for a model that gets fewer slots than its instance has, as those that only embed do."""

from itertools import count
from math import inf

import pytest

from services.inference.core.decisions import Cause, Decision, Dispatch, Load
from services.inference.core.estimates import Estimates
from services.inference.core.hosts import Capacity, Host, Resident, Running
from services.inference.core.jobs import Job, Priority
from services.inference.core.policy import Policy
from services.inference.core.scheduler import Scheduler
from services.inference.core.usage import Usage
from services.inference.errors import DeadlineUnreachable

tickets = count()


def job(*, model: str = "embed", deadline_at_s: float = inf) -> Job:
    return Job(
        ticket=next(tickets),
        tenant="a",
        model=model,
        priority=Priority.DEFAULT,
        arrived_at_s=0.0,
        expires_at_s=inf,
        deadline_at_s=deadline_at_s,
        prompt_token_count=1_000,
    )


def fleet(*loaded_counts: int) -> Scheduler:
    """Instances of four slots, of which the model gets one; whether they have it loaded (1 or 0). It takes four seconds."""
    estimates = Estimates()
    usage = Usage(prompt_token_count=1_000, prompt_s=4.0, output_token_count=0, output_s=0.0)
    for _ in range(8):
        estimates.learn_work("embed", "gpu-0", "a", usage=usage, reused_token_count=0, batch=1.0)
    made = Scheduler(Policy(), estimates)
    for number, loaded_count in enumerate(loaded_counts):
        capacity = Capacity(
            instance=f"gpu-{number}",
            slots=4,
            models={"embed": 10**9},
            loaded={"embed": 10**9} if loaded_count else {},
            slots_of={"embed": 1},
        )
        made.observe(capacity, 0.0)
    return made


def begin(made: Scheduler, how_many: int) -> list[Decision]:
    decisions = []
    for _ in range(how_many):
        made.submit(job(), 0.0)
        decisions += made.decide(0.0)
    return decisions


def test_jobs_for_one_slot_are_foreseen_to_run_one_after_another() -> None:
    made = fleet(1)
    assert [type(decision) for decision in begin(made, 4)] == [Dispatch]
    assert [place.wait_s for place in made.places("embed", 0.0)] == pytest.approx([4.0, 8.0, 12.0])
    with pytest.raises(DeadlineUnreachable) as refused:
        made.submit(job(deadline_at_s=15.0), 0.0)
    assert float(refused.value.facts["estimated_wait_s"]) == pytest.approx(16.0, abs=0.01)


def test_the_slot_of_an_idle_instance_is_used_and_counted_on() -> None:
    made = fleet(1, 1)
    first, second = begin(made, 2)
    assert isinstance(first, Dispatch)
    assert isinstance(second, Dispatch)
    assert {first.instance, second.instance} == {"gpu-0", "gpu-1"}
    begin(made, 3)
    waits_s = [place.wait_s for place in made.places("embed", 0.0)]
    assert waits_s == pytest.approx([4.0, 6.0, 8.0]), "two slots, side by side"


def test_slots_that_the_model_cannot_use_keep_nobody_from_loading_it_elsewhere() -> None:
    made = fleet(1, 0)
    _, *loads = begin(made, 2)
    assert loads == [Load("gpu-1", "embed", Cause.SPREAD)]


def test_a_slot_that_another_model_leaves_does_not_help() -> None:
    host = Host("gpu")
    host.slots, host.slots_of, host.models = 2, {"embed": 1}, {"embed": 1, "chat": 1}
    host.residents = {model: Resident(0.0, 0.0, 0.0) for model in host.models}
    host.running = {
        1: Running(job(), 1.0, 0, 0.0, 4.0),
        2: Running(job(model="chat"), 1.0, 0, 0.0, 1.0),
    }
    assert (host.free_in_s("embed", 0.0), host.free_in_s("chat", 0.0)) == (4.0, 1.0)
    del host.running[2]
    assert (host.free_in_s("embed", 0.0), host.free_in_s("chat", 0.0)) == (4.0, 0.0)
    assert not host.takes("embed")
    assert host.takes("chat")
    host.slots = 1
    assert host.free_in_s("chat", 0.0) == 4.0
