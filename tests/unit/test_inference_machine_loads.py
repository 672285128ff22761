"""The model of one Ollama server loads, reloads and unloads as Ollama does."""

import pytest

from services.inference.simulation.parts import (
    Loaded,
    Refusal,
    Refused,
    UnloadCause,
    Unloaded,
)
from tests.unit.machines import CONTEXT, GIB, ask, drained, finished, machine, warm


def test_loads_come_one_at_a_time_and_the_line_for_them_has_a_bound() -> None:
    made = machine(max_queue=1)
    made.offer(ask(1, "small"), 0.0)
    made.offer(ask(2, "other"), 0.0)
    made.offer(ask(3, "third"), 0.0)
    made.offer(ask(4, "small"), 0.0)  # Its model is on its way: it needs no load.
    events = drained(made, 50.0)
    assert [event.id for event in events if isinstance(event, Refused)] == [3]
    assert [event.at_s for event in events if isinstance(event, Loaded)] == [2.0, 4.0]
    assert finished(events).keys() == {1, 2, 4}


def test_the_load_is_free_for_the_first_of_all_queues() -> None:
    made = machine(max_queue=0)
    made.offer(ask(1), 0.0)
    made.offer(ask(2, "other"), 0.0)
    assert made.advance(0.0) == [Refused(at_s=0.0, id=2, reason=Refusal.BUSY)]
    assert finished(drained(made, 50.0)).keys() == {1}


def test_other_runner_options_wait_until_nobody_uses_the_model_then_reload_it() -> None:
    made = warm()
    made.offer(ask(1, out=100), 100.0)
    made.offer(ask(2, runner=CONTEXT), 100.1)
    made.offer(ask(3, out=200), 100.2)  # Equal options: it passes number 2, and keeps it waiting.
    events = drained(made)
    ends = finished(events)
    assert ends[1].at_s < ends[3].at_s < ends[2].at_s
    (unloaded,) = [event for event in events if isinstance(event, Unloaded)]
    assert unloaded == Unloaded(at_s=ends[3].at_s, model="small", cause=UnloadCause.RELOAD)
    assert ends[2].load_s == pytest.approx(ends[3].at_s - 100.1 + 2.0)
    assert (made.load_count, made.reload_count) == (2, 1)


def test_a_request_that_brings_a_keep_alive_takes_the_order_to_go_back() -> None:
    made = warm()
    made.offer(ask(1), 100.0)
    made.offer(ask(2, runner=CONTEXT), 100.0)
    made.offer(ask(3, keep_alive_s=60), 100.0)
    ends = finished(drained(made))
    assert ends[2].load_s == pytest.approx(ends[3].at_s - 100.0 + 60 + 2.0)
    assert made.reload_count == 0  # It went by itself.


@pytest.mark.parametrize(
    ("keep_alives", "busy", "goes"),
    [
        ((10.0, 20.0), None, "small"),
        ((20.0, 10.0), None, "other"),
        ((20.0, 20.0), None, "other"),  # By name.
        ((10.0, 20.0), "small", "other"),  # Idle first.
        ((-1.0, 20.0), None, "other"),
    ],
)
def test_who_makes_room(keep_alives: tuple[float, float], busy: str | None, goes: str) -> None:
    made = machine()
    for place, (model, keep_alive_s) in enumerate(zip(("small", "other"), keep_alives, strict=True)):
        made.load(model, (), keep_alive_s, 0.0, -1 - place)
    made.advance(4.0)
    if busy:
        made.offer(ask(1, busy, out=1000), 4.0)
    made.load("third", (), None, 4.5, -9)
    first = next(event for event in drained(made) if isinstance(event, Unloaded))
    assert (first.model, first.cause) == (goes, UnloadCause.PRESSURE)


def test_if_none_is_idle_the_shortest_keep_alive_drains() -> None:
    made = warm("small", "other")
    made.offer(ask(1, "small", out=300, keep_alive_s=5), 100.0)
    made.offer(ask(2, "other", out=10), 100.0)
    made.offer(ask(3, "third"), 100.0)
    events = drained(made)
    unloaded = [event for event in events if isinstance(event, Unloaded)]
    assert unloaded[0] == Unloaded(at_s=finished(events)[1].at_s, model="small", cause=UnloadCause.PRESSURE)


def test_no_more_models_than_allowed_and_the_too_large_alone() -> None:
    made = machine(loaded_max=1, keep_alive_s=-1)
    made.load("small", (), None, 0.0, -1)
    made.load("other", (), None, 5.0, -2)
    made.advance(20.0)
    assert [resident.model for resident in made.residents(20.0)] == ["other"]
    tight = machine(vram_bytes=GIB)
    tight.offer(ask(1), 0.0)
    assert finished(drained(tight, 50.0)).keys() == {1}
    (resident,) = tight.residents(50.0)
    assert resident.vram_bytes == GIB


def test_keep_alive_begins_whenever_it_is_idle() -> None:
    made = machine(keep_alive_s=30)
    made.offer(ask(1), 0.0)
    end = finished(drained(made, 10.0))[1]
    assert made.next_event_s() == pytest.approx(end.at_s + 30)
    made.offer(ask(2, keep_alive_s=5), 20.0)
    end = finished(drained(made, 21.0))[2]
    made.offer(ask(3), 22.0)  # Without one: the last one stays.
    end = finished(drained(made, 23.0))[3]
    assert drained(made) == [Unloaded(at_s=end.at_s + 5, model="small", cause=UnloadCause.EXPIRED)]


def test_keep_alive_zero_and_for_ever() -> None:
    made = machine()
    made.offer(ask(1, keep_alive_s=0), 0.0)
    *_, end, unloaded = drained(made)
    assert isinstance(unloaded, Unloaded)
    assert end.at_s == unloaded.at_s
    made.load("small", (), -1, 10.0, 2)
    assert finished(drained(made))[2].load_s == 2.0
    assert [resident.expires_at_s for resident in made.residents(1e9)] == [float("inf")]


def test_it_unloads_when_asked_once_nobody_uses_it() -> None:
    made = warm()
    made.offer(ask(1), 100.0)
    made.unload("small", 100.0)
    made.unload("nothing of that name", 100.0)
    *_, end, unloaded = drained(made)
    assert unloaded == Unloaded(at_s=end.at_s, model="small", cause=UnloadCause.ASKED)


def test_loads_can_be_held_back() -> None:
    made = machine()
    made.loads_held = True
    made.offer(ask(1), 0.0)
    assert made.advance(50.0) == []
    assert made.next_event_s() is None
    (resident,) = made.residents(50.0)
    assert (resident.ready, resident.busy_count) == (False, 0)
    made.loads_held = False
    assert made.next_event_s() == 50.0
    assert finished(drained(made, 60.0))[1].load_s == 50.0


def test_who_is_first_in_line_for_a_load_may_leave() -> None:
    """What it told to go goes all the same; the next one is seen to."""
    made = warm("small", "other")
    made.offer(ask(1, "small", out=100), 100.0)
    made.offer(ask(2, "small", runner=CONTEXT), 100.1)
    made.offer(ask(3, "other", runner=CONTEXT), 100.2)
    made.leave(2, 100.3)
    events = drained(made)
    assert [(event.model, event.cause) for event in events if isinstance(event, Unloaded)] == [
        ("other", UnloadCause.RELOAD),
        ("small", UnloadCause.RELOAD),
    ]
    assert finished(events)[3].load_s == pytest.approx(0.1 + 2.0)


def test_a_load_goes_on_for_those_who_still_want_it() -> None:
    made = machine()
    made.offer(ask(1), 0.0)
    made.offer(ask(2), 0.5)
    made.leave(1, 1.0)
    assert finished(drained(made, 50.0))[2].load_s == 1.5
