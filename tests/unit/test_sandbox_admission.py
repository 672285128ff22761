"""Who gets a place, and who is refused one: decided without I/O, against books of the test's own."""

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import InvalidRequest, MeshError
from services.sandbox.core.admission import PASSES_MAX, Admission, Bounds, Claim, Ticket
from services.sandbox.core.owners import Owner
from services.sandbox.errors import QueueFull, TooManyExecutions
from services.sandbox.places import Places

ADA, BEN, CLEO = (Owner("o", name) for name in ("ada", "ben", "cleo"))
BOUNDS = Bounds(memory_bytes=8, session_memory_bytes=4, running_max=4, waiting_max=10, user_executions_max=8)


def small(memory_bytes: int = 1) -> Claim:
    return Claim(memory_bytes=memory_bytes)


def ask(books: Admission, owner: Owner, claim: Claim | None = None) -> Ticket:
    """Ask, and let whoever may go ahead."""
    ticket = books.ask(owner, claim or small())
    books.advance()
    return ticket


def test_a_flood_of_one_user_does_not_hold_up_another() -> None:
    books = Admission(BOUNDS)
    flood = [ask(books, ADA) for _ in range(8)]
    late = ask(books, BEN)
    assert [ticket.is_held for ticket in flood] == [True] * 4 + [False] * 4
    assert books.ahead_count(late) == 0
    books.give_back(flood[0])
    assert books.advance() == [late]


def test_who_holds_most_goes_last_whatever_it_is_that_they_hold() -> None:
    books = Admission(BOUNDS)
    ask(books, ADA, small(4))  # Half of the memory,
    ask(books, BEN)  # and a quarter of the places.
    others = [ask(books, CLEO), ask(books, CLEO)]
    first, second = ask(books, ADA), ask(books, BEN)
    books.give_back(others[0])
    assert books.advance() == [second]
    books.give_back(others[1])
    assert books.advance() == [first]


def test_memory_is_a_bound_as_much_as_the_count() -> None:
    books = Admission(BOUNDS)
    assert [ask(books, ADA, small(3)).is_held for _ in range(3)] == [True, True, False]
    assert books.memory_bytes == 6


def test_a_large_one_is_passed_so_often_and_no_more() -> None:
    books = Admission(BOUNDS)
    running = [ask(books, ADA), ask(books, ADA)]
    large = ask(books, BEN, small(8))
    passed_count = 0
    while True:
        ticket = ask(books, CLEO)
        if not ticket.is_held:
            break
        passed_count += 1
        books.give_back(ticket)
        books.advance()
    assert passed_count == PASSES_MAX
    for held in running:
        books.give_back(held)
    assert books.advance() == [large]


def test_what_never_fits_is_refused_at_once_and_precisely() -> None:
    books = Admission(BOUNDS)
    with pytest.raises(InvalidRequest) as refused:
        books.ask(ADA, small(9))
    assert [each.field for each in refused.value.violations] == ["limits.memory_bytes"]
    assert "8 bytes" in refused.value.violations[0].description
    with pytest.raises(InvalidRequest):
        books.ask(ADA, Claim(memory_bytes=5, runs=False))


def test_one_user_cannot_have_all_waiting_places() -> None:
    books = Admission(BOUNDS)
    for _ in range(8):
        ask(books, ADA)
    with pytest.raises(TooManyExecutions) as refused:
        ask(books, ADA)
    assert refused.value.facts == {"executions_max": "8"}
    for _ in range(6):
        ask(books, BEN)
    with pytest.raises(QueueFull):
        ask(books, CLEO)


def test_without_waiting_places_what_is_free_is_given_out() -> None:
    books = Admission(
        Bounds(memory_bytes=2, session_memory_bytes=0, running_max=1, waiting_max=0, user_executions_max=9)
    )
    first = ask(books, ADA)
    with pytest.raises(QueueFull):
        ask(books, BEN)
    books.give_back(first)
    assert ask(books, BEN).is_held


def test_sessions_leave_memory_to_executions_and_never_wait_for_each_other() -> None:
    books = Admission(BOUNDS)
    held = ask(books, ADA, Claim(memory_bytes=4, runs=False))
    assert (held.is_held, books.running_count, books.memory_bytes) == (True, 0, 4)
    with pytest.raises(QueueFull):
        ask(books, BEN, Claim(memory_bytes=1, runs=False))
    assert ask(books, BEN, small(4)).is_held
    books.give_back(held)
    assert ask(books, BEN, Claim(memory_bytes=4, runs=False)).is_held


def test_giving_back_is_idempotent() -> None:
    books = Admission(BOUNDS)
    ticket = ask(books, ADA)
    books.give_back(ticket)
    books.give_back(ticket)
    assert (books.running_count, books.memory_bytes, books.waiting_count) == (0, 0, 0)


@dataclass
class Books:
    """What the test knows by itself."""

    admission: Admission = field(default_factory=lambda: Admission(BOUNDS))
    waiting: list[Ticket] = field(default_factory=list)
    held: list[Ticket] = field(default_factory=list)

    def ask(self, owner: Owner, claim: Claim) -> None:
        try:
            self.waiting.append(self.admission.ask(owner, claim))
        except MeshError as error:
            self.refused(owner, claim, error)
        self.advance()

    def refused(self, owner: Owner, claim: Claim, error: MeshError) -> None:
        """Nobody is refused who need not be."""
        under_way = Counter(
            ticket.owner
            for ticket in [*self.waiting, *self.held]
            if ticket in self.waiting or ticket.claim.runs
        )
        sessions = sum(t.claim.memory_bytes for t in [*self.waiting, *self.held] if not t.claim.runs)
        match error:
            case InvalidRequest():
                assert claim.memory_bytes > (
                    BOUNDS.memory_bytes if claim.runs else BOUNDS.session_memory_bytes
                )
            case TooManyExecutions():
                assert under_way[owner] == BOUNDS.user_executions_max
            case QueueFull():
                assert (
                    len(self.waiting) == BOUNDS.waiting_max
                    or sessions + claim.memory_bytes > BOUNDS.session_memory_bytes
                )

    def give_back(self, ticket: Ticket) -> None:
        self.admission.give_back(ticket)
        (self.held if ticket in self.held else self.waiting).remove(ticket)
        self.advance()

    def advance(self) -> None:
        for ticket in self.admission.advance():
            self.waiting.remove(ticket)
            self.held.append(ticket)

    def check(self) -> None:
        running_count = sum(ticket.claim.runs for ticket in self.held)
        memory_bytes = sum(ticket.claim.memory_bytes for ticket in self.held)
        books = self.admission
        assert (books.running_count, books.memory_bytes) == (running_count, memory_bytes)
        assert books.waiting_count == len(self.waiting) <= BOUNDS.waiting_max
        assert running_count <= BOUNDS.running_max
        assert memory_bytes <= BOUNDS.memory_bytes
        assert all(ticket.passed_count <= PASSES_MAX for ticket in self.waiting)
        # What is free is not kept from those who wait: but for who stands first, too large, and is passed no more.
        if not any(ticket.passed_count == PASSES_MAX for ticket in self.waiting):
            first = {ticket.owner: ticket for ticket in reversed(self.waiting)}.values()
            for ticket in first:
                assert (
                    running_count + ticket.claim.runs > BOUNDS.running_max
                    or memory_bytes + ticket.claim.memory_bytes > BOUNDS.memory_bytes
                )
        assert sorted(map(books.ahead_count, self.waiting)) == list(range(len(self.waiting)))


STEPS = st.one_of(
    st.tuples(
        st.sampled_from([ADA, BEN, CLEO]),
        st.builds(Claim, memory_bytes=st.integers(0, 9), runs=st.sampled_from([True, True, True, False])),
    ),
    st.integers(0, 20),
)


@settings(deadline=None)  # A busy machine is no failure.
@given(steps=st.lists(STEPS, max_size=80))
def test_the_books_are_right_and_nobody_starves(steps: list[tuple[Owner, Claim] | int]) -> None:
    books = Books()
    for step in steps:
        if isinstance(step, int):
            there = [*books.held, *books.waiting]
            if there:
                books.give_back(there[step % len(there)])
        else:
            books.ask(*step)
        books.check()
    # When everybody ends in turn, everybody has had a place.
    for _ in range(len(books.held) + len(books.waiting)):
        books.give_back(books.held[0])
        books.check()
    assert not books.held
    assert not books.waiting
    assert (books.admission.running_count, books.admission.memory_bytes) == (0, 0)


@settings(deadline=None)  # A busy machine is no failure.
@given(owners=st.lists(st.sampled_from([ADA, BEN, CLEO]), min_size=1, max_size=14))
def test_the_count_of_those_ahead_comes_true(owners: list[Owner]) -> None:
    """Where nobody comes or leaves."""
    bounds = Bounds(
        memory_bytes=99, session_memory_bytes=0, running_max=1, waiting_max=20, user_executions_max=20
    )
    books = Admission(bounds)
    first, *waiting = [ask(books, owner) for owner in owners]
    told = {books.ahead_count(ticket): ticket for ticket in waiting}
    served, runs = [], first
    while books.waiting_count:
        books.give_back(runs)
        (runs,) = books.advance()
        served.append(runs)
    assert served == [told[index] for index in range(len(waiting))]
    # And they take turns: nobody has a second place while another waits for a first.
    for owner in {ADA, BEN, CLEO}:
        times = [index for index, ticket in enumerate(served) if ticket.owner == owner]
        for one, next_ in itertools.pairwise(times):
            between = {ticket.owner for ticket in served[one + 1 : next_]}
            assert between == {ticket.owner for ticket in served[next_:] if ticket.owner != owner} | between


async def test_a_place_is_waited_for_and_given_back_when_its_waiter_leaves() -> None:
    places = Places(
        Bounds(memory_bytes=9, session_memory_bytes=0, running_max=1, waiting_max=5, user_executions_max=9)
    )
    async with places.ask(ADA, small()):
        leaves, stays = places.ask(ADA, small()), places.ask(BEN, small())
        assert (stays.ahead_count, leaves.ahead_count) == (0, 1)

        async def enter() -> None:
            async with leaves:
                raise AssertionError("it must not get here")

        task = asyncio.create_task(enter())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert places.books.waiting_count == 1
    async with asyncio.timeout(10):
        await stays.held()
    assert stays.ahead_count is None
    stays.give_back()
    assert places.books.running_count == 0
