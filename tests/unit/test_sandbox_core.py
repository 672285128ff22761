"""Limits, output and lifecycle: what is decided without I/O."""

import math
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from services.sandbox.core.lifecycle import (
    STEPS,
    Ending,
    Event,
    Lifecycle,
    Outcome,
    Phase,
    Verdict,
    judge,
)
from services.sandbox.core.limits import (
    FILES_BYTES_MIN,
    MEMORY_BYTES_MIN,
    Asked,
    LimitKind,
    Limits,
    granted,
)
from services.sandbox.core.output import FLOOD_FACTOR, Output

COUNTS = st.none() | st.integers(1, 2**40)
SECONDS = st.none() | st.floats(0.001, 1e6)
WISHES = st.builds(
    Asked,
    wall_s=SECONDS,
    memory_bytes=COUNTS,
    cpu_s=SECONDS,
    process_count=COUNTS,
    output_bytes=COUNTS,
    files_bytes=COUNTS,
)


@settings(deadline=None)  # A busy machine is no failure.
@given(asked=WISHES, cap=st.builds(Limits, cpu_s=SECONDS))
def test_nobody_gets_more_than_the_cap(asked: Asked, cap: Limits) -> None:
    got = granted(asked, cap)
    assert got.wall_s <= cap.wall_s
    assert (got.cpu_s or math.inf) <= (cap.cpu_s or math.inf)
    assert MEMORY_BYTES_MIN <= got.memory_bytes <= cap.memory_bytes
    assert 1 <= got.process_count <= cap.process_count
    assert got.output_bytes <= cap.output_bytes
    assert FILES_BYTES_MIN <= got.files_bytes <= cap.files_bytes


def test_a_lower_wish_is_granted_and_none_leaves_the_cap() -> None:
    cap = Limits()
    wish = Asked(wall_s=1.5, memory_bytes=MEMORY_BYTES_MIN + 1, cpu_s=0.5, process_count=3)
    got = granted(wish, cap)
    assert (got.wall_s, got.memory_bytes, got.cpu_s, got.process_count) == (1.5, MEMORY_BYTES_MIN + 1, 0.5, 3)
    assert granted(Asked(), cap) == cap


@settings(deadline=None)  # A busy machine is no failure.
@given(limit=st.integers(1, 200), writes=st.lists(st.binary(max_size=300)), offset=st.integers(0, 250))
def test_output_keeps_the_beginning_at_its_offsets(limit: int, writes: list[bytes], offset: int) -> None:
    output, written = Output(limit), b"".join(writes)
    for data in writes:
        output.write(data)
    assert output.read(offset, 10_000) == written[:limit][offset:]
    assert output.read(0, 7) == written[:limit][:7]
    assert output.truncated == (len(written) > limit)
    assert output.flooded == (len(written) - limit > FLOOD_FACTOR * limit)


@settings(deadline=None)  # A busy machine is no failure.
@given(events=st.lists(st.sampled_from(Event)))
def test_a_life_is_ended_at_most_once_and_never_left(events: list[Event]) -> None:
    life = Lifecycle()
    stops, phases = [], [life.phase]
    for event in events:
        stops.append(life.on(event))
        phases.append(life.phase)
    assert sum(stops) <= 1
    assert (life.stopped_because is not None) == any(stops)
    order = list(Phase)
    assert [order.index(phase) for phase in phases] == sorted(order.index(phase) for phase in phases)


def test_the_first_reason_is_the_one_that_is_told() -> None:
    life = Lifecycle()
    for event in (Event.BEGAN, Event.WALL_PASSED, Event.LEFT, Event.FLOODED, Event.GONE):
        life.on(event)
    assert (life.phase, life.stopped_because) == (Phase.ENDED, Outcome.TIMEOUT)


def test_what_ran_ends_only_when_its_jail_is_gone() -> None:
    for phase, event in product((Phase.RUNNING, Phase.STOPPING), Event):
        step = STEPS.get((phase, event))
        assert (step is not None and step.to is Phase.ENDED) == (event is Event.GONE)


def ending(status: int | None, breach: LimitKind | None = None) -> Ending:
    return Ending(status=status, breach=breach, cpu_s=0.0, peak_memory_bytes=0)


def test_every_ending_has_its_name() -> None:
    assert judge(None, ending(0)) == Verdict(Outcome.OK)
    assert judge(None, ending(3)) == Verdict(Outcome.ERROR, exit_code=3)
    assert judge(None, ending(-11)) == Verdict(Outcome.SIGNALLED, signal=11)
    assert judge(None, ending(-9, LimitKind.MEMORY)) == Verdict(Outcome.OOM)
    assert judge(None, ending(None, LimitKind.MEMORY)) == Verdict(Outcome.OOM)
    assert judge(None, ending(-9, LimitKind.CPU)) == Verdict(Outcome.TIMEOUT)
    assert judge(None, ending(None)) is None


def test_what_we_did_outweighs_what_the_jail_tells() -> None:
    for outcome in (Outcome.TIMEOUT, Outcome.CANCELLED, Outcome.OUTPUT_LIMIT):
        assert judge(outcome, ending(None)) == Verdict(outcome)
        assert judge(outcome, ending(-9, LimitKind.MEMORY)) == Verdict(outcome)
