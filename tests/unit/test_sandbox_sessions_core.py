"""The life of a session, and pages of them, against books of their own."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.sandbox.core.lifecycle import Ending
from services.sandbox.core.limits import LimitKind
from services.sandbox.core.pages import (
    Position,
    from_token,
    newest,
    position_from_token,
    position_to_token,
    to_token,
)
from services.sandbox.core.sessions import (
    IDLE_LOSSES_MAX,
    RESTARTS_MAX,
    Cause,
    Event,
    Life,
    Loss,
    State,
    loss,
)

IDLE_S, LIFE_S = 10.0, 100.0


@dataclass
class Books:
    """What a session should be like, kept by other means than the table."""

    is_ended: bool = False
    has_jail: bool = False
    runs: bool = False
    used_s: float = 0.0
    losses: list[bool] = field(default_factory=list)  # Whether something ran.
    untold: int = 0


class Sessions(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.life = Life(now_s=0.0, idle_s=IDLE_S, life_s=LIFE_S)
        self.books = Books()

    def on(self, event: Event) -> bool:
        return self.life.on(event, self.now_s)

    @rule(seconds=st.floats(0, 15))
    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def open(self) -> None:
        books = self.books
        assert self.on(Event.OPENED) == (not books.has_jail and not books.is_ended)
        if not books.has_jail and not books.is_ended:
            books.has_jail = True
            if not (books.losses and not books.losses[-1]):
                books.used_s = self.now_s

    @rule()
    def begin(self) -> None:
        books = self.books
        may = books.has_jail and not books.runs and not books.is_ended
        assert self.on(Event.BEGAN) == may
        if may:
            books.runs = True
            if not (books.losses and not books.losses[-1]):
                books.used_s = self.now_s
            assert self.life.tell_loss() == (books.untold > 0)
            assert not self.life.tell_loss()
            books.untold = 0

    @rule()
    def finish(self) -> None:
        books = self.books
        may = books.runs and not books.is_ended
        assert self.on(Event.FINISHED) == may
        if may:
            books.runs = False
            books.losses.append(True)  # As good as new.
            books.used_s = self.now_s

    @rule()
    def lose(self) -> None:
        books = self.books
        may = books.has_jail and not books.is_ended
        assert self.on(Event.LOST) == may
        if may:
            books.losses.append(books.runs)
            if books.runs:
                books.used_s = self.now_s
            books.has_jail = books.runs = False
            books.untold += 1

    @rule()
    def touch(self) -> None:
        self.life.touch(self.now_s)
        self.books.used_s = self.now_s

    @precondition(lambda self: self.now_s > 50)
    @rule()
    def close(self) -> None:
        assert self.on(Event.CLOSED) == (not self.books.is_ended)
        self.books.is_ended = True
        self.books.runs = False

    @invariant()
    def is_what_the_books_say(self) -> None:
        books, life = self.books, self.life
        assert life.is_over == books.is_ended
        if not books.is_ended:
            expected = State.BUSY if books.runs else State.IDLE if books.has_jail else State.STARTING
            assert life.state is expected

    @invariant()
    def time_ends_it_when_it_should(self) -> None:
        books, life = self.books, self.life
        assert life.ends_s == LIFE_S
        is_idle = books.has_jail and not books.runs and not books.is_ended
        idle_end_s = books.used_s + IDLE_S if is_idle else LIFE_S
        assert life.expires_s == min(LIFE_S, idle_end_s)
        if books.is_ended:
            assert life.expired(self.now_s) is None
        elif self.now_s >= LIFE_S:
            assert life.expired(self.now_s) is Cause.LIFE
        else:
            assert life.expired(self.now_s) is (Cause.IDLE if self.now_s >= idle_end_s else None)

    @invariant()
    def what_breaks_by_itself_is_given_up(self) -> None:
        tail = self.books.losses[-(IDLE_LOSSES_MAX + 1) :]
        hopeless = len(tail) > IDLE_LOSSES_MAX and not any(tail)
        assert self.life.may_restart != hopeless


TestSessions = Sessions.TestCase


def test_restarts_are_bounded_however_much_runs() -> None:
    life = Life(now_s=0, idle_s=1, life_s=1)
    for _ in range(RESTARTS_MAX + 1):
        assert life.may_restart
        for event in (Event.OPENED, Event.BEGAN, Event.LOST):
            life.on(event, 0)
    assert not life.may_restart


def test_idleness_cannot_be_set_back() -> None:
    life = Life(now_s=0, idle_s=IDLE_S, life_s=LIFE_S)
    life.on(Event.OPENED, 5)
    life.touch(3)
    assert life.expires_s == 5 + IDLE_S


@pytest.mark.parametrize(
    ("ending", "killed", "why"),
    [
        (Ending(-9, None, 0, 0), True, Loss.KILLED),
        (Ending(None, LimitKind.MEMORY, 0, 0), False, Loss.LIMIT),
        (Ending(None, None, 0, 0), False, Loss.JAIL),
        (Ending(-11, None, 0, 0), False, Loss.CRASHED),
        (Ending(0, None, 0, 0), False, Loss.CRASHED),
    ],
)
def test_why_an_interpreter_was_lost(ending: Ending, *, killed: bool, why: Loss) -> None:
    assert loss(ending, killed=killed) is why


POSITIONS = st.lists(
    st.builds(Position, st.integers(0, 5), st.text("abcdef", min_size=1, max_size=4)), unique=True
)


@given(POSITIONS, POSITIONS, st.integers(1, 4))
def test_pages_tell_everything_that_stays_once(
    stay: list[Position], leave: list[Position], count_max: int
) -> None:
    """Those that leave, leave after the first page."""
    told: list[Position] = []
    present = list({*stay, *leave})
    before: Position | None = None
    while True:
        found, more = newest(present, before=before, count_max=count_max)
        assert len(found) <= count_max
        told += found
        if not more:
            break
        before, present = found[-1], stay
    assert told == sorted(set(told), reverse=True)
    assert set(stay) <= set(told)


@given(st.text(st.characters(exclude_categories=())))
def test_tokens_hold_any_name(name: str) -> None:
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return  # No file has such a name.
    assert from_token(to_token(name)) == name


@given(st.integers(0, 2**60), st.text("0123456789abcdef-", min_size=1))
def test_positions_survive_their_tokens(created_us: int, name: str) -> None:
    position = Position(created_us, name)
    assert position_from_token(position_to_token(position)) == position


@given(st.text(max_size=50))
def test_any_other_token_is_told_apart(token: str) -> None:
    try:
        found = position_from_token(token)
    except ValueError:
        return
    assert isinstance(found.created_us, int)
