"""A simulation's clock, callers and books: small worlds whose every number is known."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.core.policy import Policy
from services.inference.simulation.calls import Call, MachineBooks, Ran, Span, Verdict, time_of
from services.inference.simulation.fields import Malformed
from services.inference.simulation.fleet_spec import GIB, FleetSpec, InstanceGroup
from services.inference.simulation.fronts import Fifo, Gateway, RoundRobin
from services.inference.simulation.goals import smallest, sweep_table
from services.inference.simulation.parts import MachineSpec, ModelSpec
from services.inference.simulation.report import Report, jain, report, table
from services.inference.simulation.trace import Arrival
from services.inference.simulation.world import Front, World

TINY = ModelSpec(
    name="tiny:latest",
    vram_bytes=4 * GIB,
    load_s=2.0,
    prefill_tokens_per_s=100.0,
    token_s=0.1,
    batch_cost=0.0,
)
BIG = ModelSpec(
    name="big:latest", vram_bytes=8 * GIB, load_s=4.0, prefill_tokens_per_s=100.0, token_s=0.1, batch_cost=0.0
)


def fleet(*, count: int = 1, slots: int = 1, **policy: object) -> FleetSpec:
    machine = MachineSpec(name="", vram_bytes=10 * GIB, parallel=slots)
    return FleetSpec(
        groups=(InstanceGroup(name="gpu", count=count, speed=1.0, machine=machine),),
        models={TINY.name: TINY, BIG.name: BIG},
        policy=Policy(**policy),  # type: ignore[arg-type]
    )


def arrival(at_s: float, **changes: object) -> Arrival:
    """Needs 1 s to read and 2 s to write."""
    values: dict[str, object] = {"model": TINY.name, "prompt_tokens": 100, "output_tokens": 20}
    return Arrival(at_s=at_s, **(values | changes))  # type: ignore[arg-type]


def ran(
    spec: FleetSpec, arrivals: Sequence[Arrival], front: Callable[[World], Front] = Gateway
) -> tuple[Ran, Report]:
    world = World(spec, arrivals)
    result = world.run(front(world))
    return result, report("gateway", result, weights=spec.policy.weights)


def times(call: Call) -> list[float]:
    return [round(at_s, 6) for at_s in (call.started_s, call.first_token_s, call.ended_s)]


def test_a_request_loads_reads_and_writes() -> None:
    result, told = ran(fleet(), [arrival(1.0)])
    assert times(result.calls[0]) == [3.0, 4.1, 6.0]
    assert told.outcomes["completed"] == 1
    assert told.total.p50_s == pytest.approx(5.0)
    assert told.wait.p50_s == pytest.approx(2.0)
    assert told.first_token.p50_s == pytest.approx(3.1)
    assert told.loads == {"demand": 1}
    assert told.seconds == pytest.approx(5.0)
    assert told.goodput == pytest.approx(0.2)
    assert told.output_tokens_per_s == pytest.approx(4.0)
    assert told.utilisation.busy == pytest.approx(3 / 6)
    assert told.utilisation.load == pytest.approx(2 / 6)


def test_one_slot_serves_one_at_a_time() -> None:
    result, told = ran(fleet(), [arrival(0.0), arrival(0.5)])
    assert times(result.calls[0])[2] == 5.0
    assert times(result.calls[1]) == [5.0, 6.1, 8.0]
    assert told.slots_used == pytest.approx(6 / 8)


def test_a_deadline_that_passes_is_a_miss_and_frees_the_slot() -> None:
    result, told = ran(fleet(), [arrival(0.0, deadline_s=4.0), arrival(0.1)])
    assert result.calls[0].verdict is Verdict.DEADLINE_MISSED
    assert result.calls[0].ended_s == 4.0
    assert result.calls[1].started_s < 4.2  # At the next token.
    assert told.missed == 0.5
    assert told.goodput == pytest.approx(1 / told.seconds)


def test_what_cannot_be_done_in_time_is_refused() -> None:
    warm = [arrival(at_s) for at_s in (0.0, 6.0, 10.0)]
    late = [arrival(20.0 + number / 10, deadline_s=18.0) for number in range(6)]
    result, told = ran(fleet(), [*warm, *late])
    verdicts = [call.verdict for call in result.calls[3:]]
    assert verdicts[:2] == [Verdict.COMPLETED, Verdict.COMPLETED]
    assert set(verdicts[2:]) == {Verdict.DEADLINE_UNREACHABLE}
    assert told.refused == pytest.approx(4 / 9)


def test_queues_have_ends() -> None:
    result, told = ran(fleet(waiting_max=2), [arrival(number / 100) for number in range(5)])
    assert told.outcomes["queue_full"] == 3  # Nobody runs as long as the model loads.
    result, told = ran(fleet(), [arrival(0.0), arrival(0.1, queue_timeout_s=3.0)])
    assert result.calls[1].verdict is Verdict.QUEUE_TIMEOUT
    assert result.calls[1].ended_s == pytest.approx(3.1)


def test_callers_leave_in_every_phase() -> None:
    leaving = [arrival(0.0, leaves_after_s=after_s) for after_s in (0.5, 2.5, 3.5)]
    for one in leaving:
        result, told = ran(fleet(), [one, arrival(0.1)])
        assert [call.verdict for call in result.calls] == [Verdict.LEFT, Verdict.COMPLETED]
        assert told.outcomes["left"] == 1


def test_every_load_has_a_cause() -> None:
    both = [
        arrival(number * 1.5, model=(TINY, BIG)[number % 2].name, output_tokens=1) for number in range(80)
    ]
    for front in (Gateway, RoundRobin, Fifo):
        result, told = ran(fleet(), both, front)
        assert sum(told.loads.values()) == sum(len(books.loads) for books in result.machines)
    _, told = ran(fleet(), both)
    assert told.loads["swap"] > 1


def test_without_a_gateway_requests_wait_inside() -> None:
    result, told = ran(fleet(count=2), [arrival(0.0), arrival(0.1), arrival(0.2)], RoundRobin)
    assert [call.place for call in result.calls] == [0, 1, 0]
    assert times(result.calls[2]) == [5.0, 6.1, 8.0]
    assert told.loads == {"request": 2}


def test_a_plain_queue_gives_to_who_is_free() -> None:
    result, _ = ran(fleet(count=2), [arrival(number / 10) for number in range(4)], Fifo)
    assert [call.place for call in result.calls] == [0, 1, 0, 1]
    result, told = ran(fleet(), [arrival(0.0), arrival(0.1, leaves_after_s=1.0), arrival(0.2)], Fifo)
    assert [call.verdict for call in result.calls] == [Verdict.COMPLETED, Verdict.LEFT, Verdict.COMPLETED]
    assert told.outcomes["left"] == 1


def test_a_model_that_the_fleet_lacks_is_named() -> None:
    with pytest.raises(Malformed, match="models: 'other:latest', which the trace asks for, is not there"):
        World(fleet(), [arrival(0.0, model="other:latest")])


def test_nothing_comes_to_nothing() -> None:
    _, told = ran(fleet(), [])
    assert (told.request_count, told.goodput, told.fairness) == (0, 0.0, 1.0)
    assert table([told])


# Books


def test_those_who_share_a_gpu_share_its_time() -> None:
    books = MachineBooks(
        "gpu", 4, spans=[Span(1.0, 5.0, "a"), Span(2.0, 4.0, "b"), Span(2.0, 4.0, "a")], loads=[(0.0, 2.0)]
    )
    time = time_of(books, 8.0)
    assert time.tenants["a"] == pytest.approx(1 + 2 * 2 / 3 + 1)
    assert time.tenants["b"] == pytest.approx(2 / 3)
    assert (time.busy_s, time.load_s, time.idle_s) == (4.0, 1.0, 3.0)


SPANS = st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50), st.sampled_from("abc")), max_size=20)


@given(SPANS, st.lists(st.floats(0, 50), max_size=6))
def test_the_books_conserve(spans: list[tuple[float, float, str]], edges: list[float]) -> None:
    books = MachineBooks(
        "gpu",
        4,
        spans=[Span(min(one, two), max(one, two), tenant) for one, two, tenant in spans],
        loads=list(pairwise(sorted(edges)))[::2],
    )
    time = time_of(books, 50.0)
    assert sum(time.tenants.values()) == pytest.approx(time.busy_s)
    assert time.busy_s + time.load_s + time.idle_s == pytest.approx(50.0)
    assert min(time.busy_s, time.load_s) >= 0
    assert time.idle_s >= -1e-9


def test_jain() -> None:
    assert jain([1.0, 1.0, 1.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)


def test_the_smallest_that_is_enough() -> None:
    arrivals = [arrival(number * 2.0) for number in range(40)]
    reports = [ran(fleet(count=count), arrivals)[1] for count in (1, 2, 4)]
    assert smallest(reports, {"p95_s": 12.0}) == 2
    assert smallest(reports, {"p95_s": 0.1}) is None
    assert smallest(reports, {}) == 1
    lines = sweep_table(reports, {"p95_s": 12.0})
    assert len(lines) == 4
    assert [line.split()[-1] for line in lines] == ["goal", "no", "yes", "yes"]
