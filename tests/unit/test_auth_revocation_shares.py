"""Nobody fills the list of what is revoked for all."""

from hypothesis import given
from hypothesis import strategies as st

from services.auth.core.revocation_shares import Shares


def test_a_user_has_a_share_and_then_one_entry_for_all() -> None:
    shares = Shares(window_s=600, share=3)
    assert [shares.takes_one("ann", now_s=float(n)) for n in range(5)] == [True, True, True, False, False]
    assert shares.takes_one("ben", now_s=5.0)


def test_a_share_is_new_once_its_entries_are_forgotten() -> None:
    shares = Shares(window_s=600, share=1)
    assert shares.takes_one("ann", now_s=0.0)
    assert not shares.takes_one("ann", now_s=599.0)
    assert shares.takes_one("ann", now_s=600.0)


def test_the_owners_that_are_remembered_are_bounded() -> None:
    shares = Shares(window_s=600, share=1, owners_max=2)
    for owner in ("ann", "ben", "cleo"):
        assert shares.takes_one(owner, now_s=0.0)
    assert not shares.takes_one("cleo", now_s=1.0)
    assert shares.takes_one("ann", now_s=1.0)  # Forgotten, for she was the first.


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 5)), max_size=200))
def test_no_owner_has_more_than_two_shares_within_a_window(steps: list[tuple[str, float]]) -> None:
    """Two, since a window begins with its owner's first entry."""
    shares, now_s, taken = Shares(window_s=100, share=4), 0.0, list[tuple[str, float]]()
    for owner, passed_s in steps:
        now_s += passed_s
        if shares.takes_one(owner, now_s):
            taken.append((owner, now_s))
        for each in "abc":
            assert sum(who == each and now_s - at_s < 100 for who, at_s in taken) <= 8
