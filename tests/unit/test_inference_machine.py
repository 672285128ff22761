"""The model of one Ollama server keeps Ollama's rules, and its books."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.simulation.machine import Machine
from services.inference.simulation.parts import (
    Block,
    Event,
    Finished,
    FirstToken,
    Left,
    Loaded,
    Refusal,
    Refused,
    Request,
)
from tests.unit.machines import CONTEXT, MODELS, SPEC, ask, drained, finished, machine, warm

# Slots and speed


def test_a_request_alone_takes_what_its_model_takes() -> None:
    made = machine()
    made.offer(ask(1, prompt=500, out=20), 1.0)
    loaded, first, end = drained(made, 100.0)
    assert loaded == Loaded(at_s=3.0, model="small", load_s=2.0)
    assert isinstance(first, FirstToken)
    assert first.at_s == pytest.approx(3.51)
    assert isinstance(end, Finished)
    assert end.at_s == pytest.approx(3.7)
    assert (end.load_s, end.prompt_s, end.output_s) == pytest.approx((2.0, 0.5, 0.2))
    assert (end.prompt_token_count, end.output_token_count, end.reused_token_count) == (500, 20, 0)


@given(st.integers(1, 4))
def test_a_batch_does_more_together_and_each_less(count: int) -> None:
    made = warm()
    for id_ in range(count):
        made.offer(ask(id_, prompt=1, out=100), 100.0)
    ends = finished(drained(made))
    assert all(end.output_s == pytest.approx(1.0 + 0.25 * (count - 1)) for end in ends.values())
    throughput = count * 100 / next(iter(ends.values())).output_s
    assert throughput == pytest.approx(100 * count / (1 + 0.25 * (count - 1)))


def test_models_share_the_gpu() -> None:
    made = warm("small", "other")
    made.offer(ask(1, "small", prompt=1, out=100), 100.0)
    made.offer(ask(2, "other", prompt=1, out=100), 100.0)
    ends = finished(drained(made))
    assert ends[1].output_s == pytest.approx(1.25)
    # Alone again after that, for the tokens that are left.
    assert ends[2].output_s == pytest.approx(1.25 + (100 - 50) * 0.02)


def test_prompts_share_the_speed_of_reading_and_slow_down_tokens() -> None:
    made = warm()
    made.offer(ask(1, prompt=1, out=100), 100.0)
    made.advance(100.001)
    made.offer(ask(2, prompt=500, out=0), 100.001)
    made.offer(ask(3, prompt=500, out=0), 100.001)
    ends = finished(drained(made))
    assert ends[2].prompt_s == ends[3].prompt_s == pytest.approx(1.0)
    assert ends[1].output_s == pytest.approx(1.0 + 0.01 * (100 - 1 / 0.015), rel=0.01)


def test_what_has_no_slot_waits_in_line_without_bound_or_trace() -> None:
    made = warm(parallel=2, max_queue=0)
    for id_ in range(20):
        made.offer(ask(id_, out=5), 100.0)
    order = list(finished(drained(made)))
    assert order == sorted(order)
    assert (made.waited_inside_count, made.busy_peaks["small"]) == (18, 2)


def test_some_models_get_one_slot() -> None:
    made = warm("single")
    for id_ in range(3):
        made.offer(ask(id_, "single"), 100.0)
    drained(made)
    assert made.busy_peaks["single"] == 1


def test_tokens_can_be_counted_and_foreseen_without_an_event_for_each() -> None:
    made = warm()
    made.offer(ask(1, prompt=100, out=10), 100.0)
    made.advance(100.1)
    seen_at_s = []
    while (at_s := made.next_token_s(1)) is not None:
        made.advance(at_s)
        seen_at_s.append(at_s)
        assert made.token_count(1, at_s) in {len(seen_at_s), 0}
    assert seen_at_s == pytest.approx([100.11 + 0.01 * place for place in range(10)])


# Prefixes


def test_what_a_slot_remembers_is_not_read_again() -> None:
    made = warm()
    system, question, more = Block("system", 600), Block("question", 100), Block("more", 50)
    made.offer(replace(ask(1, prompt=(system, question), out=50), answer_key="answer"), 100.0)
    first = finished(drained(made))[1]
    made.offer(ask(2, prompt=(system, question, Block("answer", 50), more)), 110.0)
    second = finished(drained(made))[2]
    assert (first.reused_token_count, second.reused_token_count) == (0, 750)
    assert second.prompt_s == pytest.approx(0.05)
    assert second.prompt_token_count == 800
    made.offer(ask(3, prompt=(system, question, Block("answer", 50), more)), 120.0)
    assert finished(drained(made))[3].reused_token_count == 799  # The last is read, to go on from.


def test_a_conversation_finds_its_slot_and_a_stranger_takes_the_oldest() -> None:
    made = warm()
    talks = [(Block(f"talk {id_}", 100),) for id_ in range(4)]
    for id_, talk in enumerate(talks):
        made.offer(ask(id_, prompt=talk), 100.0 + id_)
    made.offer(ask(4, prompt=(*talks[2], Block("more", 10))), 110.0)
    made.offer(ask(5, prompt=(Block("stranger", 100),)), 120.0)  # Over talk 0.
    made.offer(ask(6, prompt=talks[1]), 130.0)
    made.offer(ask(7, prompt=(*talks[1], Block("long", 901))), 140.0)  # Under a tenth: over talk 3.
    made.offer(ask(8, prompt=talks[3]), 150.0)
    ends = finished(drained(made))
    assert [ends[id_].reused_token_count for id_ in (4, 5, 6, 7, 8)] == [100, 0, 99, 0, 0]


def test_the_slot_that_shares_most_is_taken_and_only_what_comes_first_is_shared() -> None:
    made = warm(parallel=2)
    system, one, two = Block("system", 100), Block("one", 50), Block("two", 50)
    made.offer(ask(1, prompt=(system, one)), 100.0)
    made.offer(ask(2, prompt=(system, two)), 100.0)
    made.offer(ask(3, prompt=(system, one, Block("more", 10))), 110.0)
    made.offer(ask(4, prompt=(Block("else", 100), two)), 120.0)
    ends = finished(drained(made))
    assert [ends[id_].reused_token_count for id_ in (3, 4)] == [150, 0]


# Leaving


def test_leaving_while_waiting_is_at_once() -> None:
    made = warm(parallel=1)
    for id_, model in enumerate(("small", "small", "large")):
        made.offer(ask(id_, model, out=1000), 100.0)
    made.advance(100.5)
    made.leave(1, 100.5)
    made.leave(2, 100.5)
    assert made.advance(100.5) == [Left(at_s=100.5, id=1), Left(at_s=100.5, id=2)]
    assert finished(drained(made)).keys() == {0}


def test_leaving_while_writing_frees_the_slot_at_the_next_token() -> None:
    made = warm(parallel=1)
    made.offer(ask(1, prompt=1, out=1000), 100.0)
    made.offer(ask(2), 100.0)
    made.advance(100.5)
    made.leave(1, 100.5)
    made.leave(1, 100.5)
    left = next(event for event in drained(made) if isinstance(event, Left))
    assert 100.5 < left.at_s <= 100.511


@pytest.mark.parametrize(("deaf", "free_at_s"), [(True, 101.0), (False, 100.4)])
def test_leaving_while_reading_is_noticed_late(*, deaf: bool, free_at_s: float) -> None:
    made = warm(parallel=1)
    made.deaf_in_prefill = deaf
    blocks = tuple(Block(f"part {place}", 100) for place in range(10))
    made.offer(ask(1, prompt=blocks), 100.0)
    made.leave(1, 100.4)
    (left,) = drained(made)
    assert isinstance(left, Left)
    assert left.at_s == pytest.approx(free_at_s)
    made.offer(ask(2, prompt=blocks), 110.0)
    assert finished(drained(made))[2].reused_token_count == (999 if deaf else 400)


def test_a_load_for_nobody_is_given_up() -> None:
    made = machine()
    made.offer(ask(1, "large"), 0.0)
    made.offer(ask(2, "small"), 0.0)
    made.leave(1, 1.0)
    made.leave(7, 1.0)  # It was never here.
    assert [event for event in drained(made, 50.0) if isinstance(event, Loaded)] == [
        Loaded(at_s=3.0, model="small", load_s=2.0)
    ]


# Faults


def test_wedged_it_takes_requests_and_does_nothing_until_it_is_restarted() -> None:
    made = warm("small", "other", parallel=1)
    made.offer(ask(1, out=100), 100.0)
    made.advance(100.2)
    made.wedge(100.2)
    for id_, model in enumerate(("small", "third", "other"), start=2):
        made.offer(ask(id_, model), 100.3)
    made.leave(1, 100.4)
    made.leave(2, 100.4)
    made.unload("other", 100.4)
    assert made.advance(500.0) == [Left(at_s=100.4, id=2)]
    assert made.next_event_s() is None
    assert made.next_token_s(1) is None
    count = made.token_count(1, 500.0)
    assert 0 < count < 100
    assert made.restart(500.0) == [1, 3, 4]
    assert made.residents(500.0) == []
    made.offer(ask(5), 500.0)
    assert finished(drained(made, 510.0))[5].load_s == 2.0


def test_refusing_and_slow_to_load() -> None:
    made = machine()
    made.refusing = True
    made.offer(ask(1), 0.0)
    assert made.next_event_s() == 0.0
    assert made.advance(0.0) == [Refused(at_s=0.0, id=1, reason=Refusal.UNREACHABLE)]
    made.refusing, made.load_factor = False, 10.0
    made.offer(ask(2), 1.0)
    assert finished(drained(made, 50.0))[2].load_s == 20.0


# Any traffic

TRAFFIC = st.lists(
    st.tuples(
        st.floats(0, 3),  # Pause before it.
        st.sampled_from(sorted(MODELS)),
        st.sampled_from([(), CONTEXT]),
        st.lists(st.sampled_from("abc"), max_size=3),  # Of what its prompt is made.
        st.integers(0, 40),
        # Not for ever: as in Ollama, who waits for the room of a model that is told so then waits for ever.
        st.sampled_from([None, 0.0, 1.0, 1000.0]),
        st.none() | st.floats(0, 5),  # When its caller leaves.
    ),
    max_size=40,
)


def played(traffic: list[tuple], made: Machine) -> Iterator[Event]:  # type: ignore[type-arg]
    """Offer it all, and leave, in the order of time."""
    now_s = 0.0
    acts: list[tuple[float, int, Request | None]] = []
    for id_, (pause_s, model, runner, keys, out, keep_alive_s, leaves_s) in enumerate(traffic):
        now_s += pause_s
        prompt = tuple(Block(key, 100) for key in keys)
        acts.append(
            (now_s, id_, ask(id_, model, prompt=prompt, out=out, runner=runner, keep_alive_s=keep_alive_s))
        )
        if leaves_s is not None:
            acts.append((now_s + leaves_s, id_, None))
    for at_s, id_, request in sorted(acts, key=lambda act: act[:2]):
        yield from drained(made, at_s)
        if request is None:
            made.leave(id_, at_s)
        else:
            made.offer(request, at_s)
        for resident in made.residents(at_s):
            assert resident.busy_count <= (1 if resident.model == "single" else 2)
            assert not resident.waiting_count or resident.busy_count
        held = sum(resident.vram_bytes for resident in made.residents(at_s))
        assert held <= SPEC.vram_bytes
    yield from drained(made)


@given(TRAFFIC)
def test_everybody_ends_once_with_all_their_tokens(traffic: list[tuple]) -> None:  # type: ignore[type-arg]
    made = machine(parallel=2, max_queue=5, keep_alive_s=2.0)
    events = list(played(traffic, made))
    assert [event.at_s for event in events] == sorted(event.at_s for event in events)
    ends = Counter(event.id for event in events if isinstance(event, Finished | Refused | Left))
    assert ends == Counter(range(len(traffic)))
    for event in finished(events).values():
        *_, keys, out, _, _ = traffic[event.id]
        assert (event.output_token_count, event.prompt_token_count) == (out, 100 * len(keys))
        assert min(event.load_s, event.prompt_s, event.output_s, event.slot_wait_s) >= 0
        assert event.prompt_s + event.output_s >= 0.01 * out - 1e-9
    loads = Counter(event.model for event in events if isinstance(event, Loaded))
    assert loads.total() == made.load_count
    assert list(played(traffic, machine(parallel=2, max_queue=5, keep_alive_s=2.0))) == events
