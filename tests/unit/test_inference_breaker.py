"""The breaker's table of transitions, held against another writing of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.core.breaker import Breaker, BreakerState

CLOSED, HALF_OPEN, OPEN = BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN


def breaker() -> Breaker:
    return Breaker(failures_max=3, open_s=2.0, open_max_s=10.0, streak_s=5.0)


def opened(*, times: int, now_s: float = 0.0) -> tuple[Breaker, float]:
    """A breaker that has opened so often in a row, the last time at the time returned."""
    made = breaker()
    made.failed(now_s, enough=True)
    for _ in range(times - 1):
        due_s = made.next_probe_s()
        assert due_s is not None
        now_s = due_s
        assert made.take_probe(now_s)
        made.failed(now_s)
    return made, now_s


class Table:
    """The states by name, with their memory in plain sight."""

    def __init__(self) -> None:
        self.close()

    def close(self) -> None:
        self.name, self.openings, self.until_s, self.probed = CLOSED, 0, 0.0, False
        self.failed_at_s: list[float] = []

    def see(self, now_s: float) -> BreakerState:
        if self.name is OPEN and now_s >= self.until_s:
            self.name, self.probed = HALF_OPEN, False
        return self.name

    def open(self, now_s: float, jitter: float) -> None:
        self.openings += 1
        self.name = OPEN
        self.until_s = now_s + min(10.0, 2.0 * 2 ** (self.openings - 1)) * (1 + jitter)

    def fail(self, now_s: float, jitter: float, *, enough: bool) -> None:
        if self.name is CLOSED:
            close = self.failed_at_s and now_s - self.failed_at_s[-1] <= 5.0
            self.failed_at_s = [*(self.failed_at_s if close else []), now_s]
        if self.name is HALF_OPEN or (self.name is CLOSED and (enough or len(self.failed_at_s) == 3)):
            self.open(now_s, jitter)

    def succeed(self) -> None:
        if self.name is not OPEN:
            self.close()


steps = st.lists(
    st.tuples(
        st.sampled_from(("failed", "failed", "enough", "succeeded", "probe", "look")),
        st.sampled_from((0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 20.0)),
        st.sampled_from((0.0, 0.25)),
    ),
    max_size=80,
)


@given(steps)
def test_states_are_those_of_the_table(happenings: list[tuple[str, float, float]]) -> None:
    tested, table, now_s = breaker(), Table(), 0.0
    for happening, passed_s, jitter in happenings:
        now_s += passed_s
        assert tested.state(now_s) is table.see(now_s)
        match happening:
            case "failed" | "enough":
                tested.failed(now_s, enough=happening == "enough", jitter=jitter)
                table.fail(now_s, jitter, enough=happening == "enough")
            case "succeeded":
                tested.succeeded(now_s)
                table.succeed()
            case "probe":
                assert tested.take_probe(now_s) is (table.name is HALF_OPEN and not table.probed)
                table.probed = table.name is HALF_OPEN
        assert tested.state(now_s) is table.see(now_s)
        due = table.name is OPEN or (table.name is HALF_OPEN and not table.probed)
        assert tested.next_probe_s() == (table.until_s if due else None)


def test_failures_count_only_in_a_row() -> None:
    tested = breaker()
    for happening in (tested.failed, tested.failed, tested.succeeded, tested.failed, tested.failed):
        happening(0.0)
    assert tested.state(0.0) is CLOSED
    tested.failed(0.0)
    assert tested.state(0.0) is OPEN


def test_one_failure_that_says_enough_opens() -> None:
    tested = breaker()
    tested.failed(5.0, enough=True)
    assert tested.state(6.9) is OPEN
    assert not tested.take_probe(6.9)
    assert tested.state(7.0) is HALF_OPEN


def test_half_open_takes_exactly_one_probe() -> None:
    tested, now_s = opened(times=1)
    now_s += 2.0
    assert [tested.take_probe(now_s) for _ in range(3)] == [True, False, False]
    assert tested.next_probe_s() is None
    tested.failed(now_s)
    assert [tested.take_probe(now_s + 4.0) for _ in range(2)] == [True, False]


@pytest.mark.parametrize(("times", "open_s"), [(1, 2.0), (2, 4.0), (3, 8.0), (4, 10.0), (50, 10.0)])
def test_it_stays_open_for_longer_each_time_up_to_a_maximum(times: int, open_s: float) -> None:
    tested, now_s = opened(times=times)
    assert tested.next_probe_s() == now_s + open_s


def test_closing_makes_the_next_opening_short_again() -> None:
    tested, now_s = opened(times=4)
    assert tested.take_probe(now_s + 10.0)
    tested.succeeded(now_s + 10.0)
    assert tested.state(now_s + 10.0) is CLOSED
    assert tested.next_probe_s() is None
    tested.failed(now_s + 10.0, enough=True)
    assert tested.next_probe_s() == now_s + 12.0


def test_what_was_sent_before_it_opened_changes_nothing() -> None:
    tested, now_s = opened(times=1)
    tested.failed(now_s + 1.0)
    tested.succeeded(now_s + 1.0)
    assert tested.state(now_s + 1.0) is OPEN
    assert tested.next_probe_s() == now_s + 2.0


def test_jitter_makes_it_longer() -> None:
    tested = breaker()
    tested.failed(0.0, enough=True, jitter=0.5)
    assert tested.next_probe_s() == 3.0


@pytest.mark.parametrize(("apart_s", "state"), [(5.0, OPEN), (5.1, CLOSED)])
def test_failures_count_together_only_if_they_are_close(apart_s: float, state: BreakerState) -> None:
    tested = breaker()
    for number in range(3):
        tested.failed(number * apart_s)
    assert tested.state(2 * apart_s) is state
