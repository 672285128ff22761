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
    limits_reached,
)
from services.sandbox.core.limits import (
    FILES_BYTES_MIN,
    MEMORY_BYTES_MIN,
    Asked,
    Caps,
    LimitKind,
    Limits,
    granted,
    lowered,
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


LIMITS = st.builds(
    Limits,
    wall_s=st.floats(0.1, 3600),
    memory_bytes=st.integers(MEMORY_BYTES_MIN, 2**40),
    cpu_s=SECONDS,
    process_count=st.integers(1, 4096),
    output_bytes=st.integers(1, 2**30),
    files_bytes=st.integers(FILES_BYTES_MIN, 2**36),
)


@settings(deadline=None)  # A busy machine is no failure.
@given(asked=WISHES, usual=LIMITS, most=LIMITS)
def test_nobody_gets_more_than_the_most(asked: Asked, usual: Limits, most: Limits) -> None:
    got = granted(asked, Caps(usual=lowered(usual, most), most=most))
    assert got.wall_s <= most.wall_s
    assert (got.cpu_s or math.inf) <= (most.cpu_s or math.inf)
    assert MEMORY_BYTES_MIN <= got.memory_bytes <= most.memory_bytes
    assert 1 <= got.process_count <= most.process_count
    assert got.output_bytes <= most.output_bytes
    assert FILES_BYTES_MIN <= got.files_bytes <= most.files_bytes


def test_a_lower_wish_is_granted_and_none_leaves_what_is_usual() -> None:
    usual, most = Limits(), Limits(wall_s=60.0, memory_bytes=2**30)
    caps = Caps(usual=usual, most=most)
    wish = Asked(wall_s=1.5, memory_bytes=MEMORY_BYTES_MIN + 1, cpu_s=0.5, process_count=3)
    got = granted(wish, caps)
    assert (got.wall_s, got.memory_bytes, got.cpu_s, got.process_count) == (1.5, MEMORY_BYTES_MIN + 1, 0.5, 3)
    assert granted(Asked(), caps) == usual
    assert granted(Asked(wall_s=30.0), caps).wall_s == 30.0


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
    for outcome in STOPS:
        assert judge(outcome, ending(None)) == Verdict(outcome)
        assert judge(outcome, ending(-9, LimitKind.MEMORY)) == Verdict(outcome)


ENDINGS = st.builds(
    Ending,
    status=st.none() | st.integers(-64, 255),
    breach=st.none() | st.sampled_from([LimitKind.MEMORY, LimitKind.CPU]),
    cpu_s=st.just(0.0),
    peak_memory_bytes=st.just(0),
    reached=st.frozensets(st.sampled_from([LimitKind.PROCESSES, LimitKind.FILES, LimitKind.OUTPUT])),
)
STOPS = [Outcome.TIMEOUT, Outcome.CANCELLED, Outcome.OUTPUT_LIMIT]


@settings(deadline=None)  # A busy machine is no failure.
@given(stopped_because=st.none() | st.sampled_from(STOPS), ending=ENDINGS)
def test_the_limit_that_ended_it_is_told_first_and_none_twice(
    stopped_because: Outcome | None, ending: Ending
) -> None:
    reached = limits_reached(stopped_because, ending)
    ours = {Outcome.TIMEOUT: LimitKind.WALL, Outcome.OUTPUT_LIMIT: LimitKind.OUTPUT}
    first = ending.breach if stopped_because is None else ours.get(stopped_because)
    assert len(reached) == len(set(reached))
    assert set(reached) == (ending.reached | {ending.breach, first}) - {None}
    if first is not None:
        assert reached[0] is first
    verdict = judge(stopped_because, ending)
    if stopped_because is None and first is not None:
        assert verdict == Verdict(Outcome.OOM if first is LimitKind.MEMORY else Outcome.TIMEOUT)
