"""What becomes of items, and whose turn it is."""

from collections import Counter
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidRequest, MeshError, StoreBusy, StoreUnavailable
from services.inference import errors
from services.inference.core.batches import (
    PAUSE_LONGEST_S,
    PAUSED_MAX,
    WAIT_LONGEST_S,
    Open,
    Turns,
    Verdict,
    delay_s,
    share,
    verdict,
)

FAILURES = [
    found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, MeshError) and hasattr(found, "reason")
]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.QueueFull(), Verdict.WAIT),
        (errors.DeadlineUnreachable(), Verdict.WAIT),
        (errors.QueueTimeout(), Verdict.WAIT),
        (errors.NoInstance(), Verdict.WAIT),
        (errors.QuotaExceeded(), Verdict.WAIT),
        (StoreBusy(), Verdict.WAIT),
        (StoreUnavailable(), Verdict.WAIT),
        (errors.InstanceFailed(), Verdict.RETRY),
        (errors.InstanceLost(), Verdict.RETRY),
        (errors.StreamStalled(), Verdict.RETRY),
        (errors.ReaderTooSlow(), Verdict.RETRY),
        (ZeroDivisionError(), Verdict.RETRY),
        (errors.TimeExceeded(), Verdict.FINAL),
        (errors.ModelNotFound(), Verdict.FINAL),
        (errors.ContextTooLarge(), Verdict.FINAL),
        (InvalidRequest([]), Verdict.FINAL),
    ],
)
def test_a_failure_is_the_items_own_or_the_times(error: Exception, expected: Verdict) -> None:
    assert verdict(error) is expected


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.reason)
def test_every_failure_has_a_verdict(failure: type[MeshError]) -> None:
    assert verdict(failure()) in Verdict


@given(st.integers(0, 10_000), st.floats(0, 1), st.one_of(st.none(), st.floats(0, 1000)))
def test_an_item_never_waits_longer_than_it_must(count: int, chance: float, at_least_s: float | None) -> None:
    found = delay_s(count, at_least_s=at_least_s, chance=chance)
    assert (at_least_s or 0) <= found <= max(WAIT_LONGEST_S, at_least_s or 0)
    assert found > 0
    if at_least_s is None:
        assert delay_s(count + 1, at_least_s=None, chance=chance) >= found


def batches(*organizations: str) -> list[Open]:
    return [Open(uuid4(), organization) for organization in organizations]


@given(st.lists(st.text(min_size=1), min_size=1, max_size=8, unique=True), st.integers(1, 5))
def test_organisations_take_turns(organizations: list[str], rounds: int) -> None:
    turns, found = Turns(), batches(*organizations)
    served = Counter(turns.next(found).organization_id for _ in range(rounds * len(found)))
    assert set(served.values()) == {rounds}


def test_who_comes_and_goes_takes_nobodys_turn() -> None:
    turns = Turns()
    a, b, c = batches("a", "b", "c")
    assert turns.next([a, b, c]) is a
    assert turns.next([b, c]) is b
    assert turns.next([a, b]) is a, "nobody comes after b, so it begins anew"
    assert turns.next([a, c]) is c


def test_a_refused_batch_is_left_alone_for_longer_each_time() -> None:
    turns, batch = Turns(), uuid4()
    now_s, pauses = 0.0, []
    for _ in range(12):
        turns.refused(batch, now_s)
        turns.refused(batch, now_s)  # Those that were on their way say nothing new.
        began_s = now_s
        while batch in turns.paused(now_s):
            now_s += 0.05
        pauses.append(round(now_s - began_s, 3))
    assert pauses == sorted(pauses)
    assert pauses[0] < 0.5
    assert pauses[-1] <= PAUSE_LONGEST_S + 0.1
    turns.refused(batch, now_s)
    turns.answered(batch)
    assert batch not in turns.paused(now_s)


def test_pauses_are_remembered_of_so_many_batches_and_no_more() -> None:
    turns = Turns()
    known = [UUID(int=number) for number in range(PAUSED_MAX + 10)]
    for batch in known:
        turns.refused(batch, 0.0)
    assert set(turns.paused(0.0)) == set(known[10:])


@given(st.integers(1, 100), st.integers(0, 100))
def test_a_share_leaves_something_for_others(free: int, organizations: int) -> None:
    found = share(free, organizations)
    assert 1 <= found <= free
    assert found * organizations <= free or found == 1
