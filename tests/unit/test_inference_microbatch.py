"""Whatever comes and goes: each call is sent once, soon, and only with its like; and costs are divided to the last token."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.inference.core.microbatch import Gatherings, shares

DELAY_S = 1.0
TEXTS_MAX = 8


class Arrivals(RuleBasedStateMachine):
    """Keeps its own books of who waits, and since when."""

    def __init__(self) -> None:
        super().__init__()
        self.gatherings = Gatherings[str](delay_s=DELAY_S, texts_max=TEXTS_MAX)
        self.now_s = 0.0
        self.count = 0
        self.waiting: dict[int, tuple[str, int, float]] = {}  # Key, texts, arrival; in the order of arrival.

    def sent(self, batches: list[list[int]]) -> None:
        for batch in batches:
            calls = [self.waiting.pop(number) for number in batch]  # So none is sent twice.
            assert batch == sorted(batch)
            assert len({key for key, _, _ in calls}) == 1
            assert len(batch) == 1 or sum(text_count for _, text_count, _ in calls) <= TEXTS_MAX

    @rule(key=st.sampled_from("ab"), text_count=st.integers(1, TEXTS_MAX + 2))
    def arrive(self, key: str, text_count: int) -> None:
        self.count += 1
        self.waiting[self.count] = (key, text_count, self.now_s)
        self.sent(self.gatherings.arrive(key, self.count, text_count, self.now_s))
        assert text_count < TEXTS_MAX or self.count not in self.waiting

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.waiting)))
        assert self.gatherings.leave(number)
        assert not self.gatherings.leave(number)
        del self.waiting[number]

    @rule(after_s=st.sampled_from([0.0, 0.25, 0.5, 3.0]))
    def wait(self, after_s: float) -> None:
        """Wake up when told to, as the shell does."""
        until_s = self.now_s + after_s
        while (due_at_s := self.gatherings.next_due_at_s) is not None and due_at_s <= until_s:
            self.now_s = due_at_s
            batches = self.gatherings.due(self.now_s)
            assert batches
            self.sent(batches)
        self.now_s = until_s

    @invariant()
    def nobody_waits_too_long(self) -> None:
        for _, _, arrived_at_s in self.waiting.values():
            assert self.now_s - arrived_at_s <= DELAY_S

    @invariant()
    def it_wakes_up_while_somebody_waits(self) -> None:
        assert (self.gatherings.next_due_at_s is None) is (not self.waiting)

    @invariant()
    def no_gathering_is_full(self) -> None:
        for key in "ab":
            assert sum(count for found, count, _ in self.waiting.values() if found == key) < TEXTS_MAX


TestArrivals = Arrivals.TestCase


def test_what_fits_is_sent_together_and_what_does_not_begins_the_next() -> None:
    gatherings = Gatherings[str](delay_s=DELAY_S, texts_max=4)
    assert gatherings.arrive("a", 1, 2, 0.0) == []
    assert gatherings.arrive("a", 2, 1, 0.5) == []
    assert gatherings.arrive("a", 3, 2, 0.6) == [[1, 2]]
    assert gatherings.arrive("a", 4, 2, 0.7) == [[3, 4]]
    assert gatherings.next_due_at_s is None


def test_switched_off_nobody_waits() -> None:
    gatherings = Gatherings[str](delay_s=0, texts_max=4)
    assert gatherings.arrive("a", 1, 1, 0.0) == [[1]]
    assert not gatherings.leave(1)


@given(st.integers(0, 10_000), st.lists(st.integers(1, 1000), min_size=1, max_size=20))
def test_shares_add_up_and_are_fair(total: int, weights: list[int]) -> None:
    made = shares(total, weights)
    assert sum(made) == total
    for share, weight in zip(made, weights, strict=True):
        assert abs(share - total * weight / sum(weights)) < 1
