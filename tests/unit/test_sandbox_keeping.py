"""What is kept of executions that have ended, and what is forgotten for it."""

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from services.sandbox.core.keeping import USER_SHARE, Keeping, Key, Shelf
from services.sandbox.core.owners import Owner

OWNERS = [Owner("o", name) for name in ("ada", "ben", "cleo")]
ADA, BEN, _ = OWNERS
KEEPING = Keeping(count_max=16, bytes_max=400)


def test_what_ended_first_is_forgotten_first() -> None:
    shelf = Shelf(KEEPING)
    forgotten = [shelf.put((ADA, str(number)), 1, told=False) for number in range(6)]
    assert forgotten == [[], [], [], [], [(ADA, "0")], [(ADA, "1")]]


def test_one_users_flood_presses_out_that_users_own() -> None:
    shelf = Shelf(KEEPING)
    shelf.put((BEN, "b"), 1, told=False)
    for number in range(50):
        assert (BEN, "b") not in shelf.put((ADA, str(number)), 1, told=False)


def test_what_was_told_goes_before_what_nobody_may_have_read() -> None:
    shelf = Shelf(KEEPING)
    shelf.put((ADA, "unread"), 1, told=False)
    for number in range(3):
        shelf.put((ADA, str(number)), 1, told=True)
    assert shelf.put((ADA, "next"), 1, told=True) == [(ADA, "0")]


def test_what_is_too_large_to_keep_is_not_kept() -> None:
    shelf = Shelf(KEEPING)
    shelf.put((ADA, "small"), 1, told=False)
    assert shelf.put((ADA, "large"), 101, told=False) == [(ADA, "small"), (ADA, "large")]
    assert (shelf.count, shelf.size_bytes) == (0, 0)


ENDED = st.tuples(st.sampled_from(OWNERS), st.integers(0, 120), st.booleans())


@settings(deadline=None)  # A busy machine is no failure.
@given(steps=st.lists(ENDED | st.integers(0, 40), max_size=80))
def test_the_bounds_hold_and_the_books_are_right(steps: list[tuple[Owner, int, bool] | int]) -> None:
    shelf, kept = Shelf(KEEPING), dict[Key, int]()
    for number, step in enumerate(steps):
        if isinstance(step, int):  # Its time is over.
            if kept:
                key = list(kept)[step % len(kept)]
                del kept[key]
                shelf.remove(key)
        else:
            owner, size_bytes, told = step
            kept[owner, str(number)] = size_bytes
            for key in shelf.put((owner, str(number)), size_bytes, told=told):
                del kept[key]
        assert (shelf.count, shelf.size_bytes) == (len(kept), sum(kept.values()))
        assert len(kept) <= KEEPING.count_max
        assert sum(kept.values()) <= KEEPING.bytes_max
        by_owner = defaultdict[Owner, list[int]](list)
        for (owner, _), size_bytes in kept.items():
            by_owner[owner].append(size_bytes)
        for sizes in by_owner.values():
            assert len(sizes) * USER_SHARE <= KEEPING.count_max
            assert sum(sizes) * USER_SHARE <= KEEPING.bytes_max
