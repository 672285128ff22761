"""Runs get their turns: bounded, one per thread, in order, and none is forgotten."""

from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.agent.core.ids import Owner, RunId, ThreadId
from services.agent.core.turns import Turns
from services.agent.errors import TooManyRuns

WORKERS_MAX, RUNS_MAX, RUNS_PER_OWNER_MAX = 2, 6, 4
OWNERS = [Owner("org", "ann"), Owner("org", "bob"), Owner("other", "ann")]


class TurnsMachine(RuleBasedStateMachine):
    """Keeps its own books of who waits and who works."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns(workers_max=WORKERS_MAX, runs_max=RUNS_MAX, runs_per_owner_max=RUNS_PER_OWNER_MAX)
        self.made = 0
        self.thread_of: dict[RunId, ThreadId] = {}
        self.owner_of: dict[RunId, Owner] = {}
        self.position_of: dict[RunId, int] = {}
        self.waiting: list[RunId] = []
        self.working: list[RunId] = []

    def places_of(self, owner: Owner) -> int:
        return sum(self.owner_of[run] == owner for run in [*self.waiting, *self.working])

    @rule(owner=st.sampled_from(OWNERS), thread=st.integers(0, 3), position=st.integers(0, 99))
    def accept(self, owner: Owner, thread: int, position: int) -> None:
        full = len(self.waiting) + len(self.working) == RUNS_MAX
        if full or self.places_of(owner) >= RUNS_PER_OWNER_MAX:
            with pytest.raises(TooManyRuns):
                self.turns.reserve(owner)
            return
        self.turns.reserve(owner)
        self.has_place(owner, thread, position)

    @precondition(lambda self: self.turns.room)
    @rule(owner=st.sampled_from(OWNERS), thread=st.integers(0, 3), position=st.integers(0, 99))
    def take_over(self, owner: Owner, thread: int, position: int) -> None:
        """A run that another replica accepted counts, but its owner's bound was asked there."""
        self.turns.admit(owner)
        self.has_place(owner, thread, position)

    def has_place(self, owner: Owner, thread: int, position: int) -> None:
        self.made += 1
        run_id = RunId(UUID(int=self.made))
        self.thread_of[run_id], self.owner_of[run_id] = ThreadId(UUID(int=thread)), owner
        self.position_of[run_id] = position
        self.queue(run_id)

    def queue(self, run_id: RunId) -> None:
        self.turns.queue(run_id, self.thread_of[run_id], position=self.position_of[run_id])
        self.waiting.append(run_id)
        self.start()

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(self.working))
        self.working.remove(run_id)
        self.turns.done(run_id)
        self.turns.release(self.owner_of[run_id])
        self.start()

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def come_again(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(self.working))
        self.working.remove(run_id)
        self.turns.done(run_id)
        self.start()
        self.queue(run_id)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def skip(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(run_id)
        assert self.turns.skip(run_id)
        assert not self.turns.skip(run_id)
        self.turns.release(self.owner_of[run_id])

    def start(self) -> None:
        started = self.turns.next()
        for run_id in started:
            self.waiting.remove(run_id)
            self.working.append(run_id)
        for run_id in started:
            rivals = [other for other in self.waiting if self.thread_of[other] == self.thread_of[run_id]]
            earlier = [other for other in rivals if self.position_of[other] < self.position_of[run_id]]
            assert not earlier, "a run has overtaken another one of its thread"

    @invariant()
    def room_is_what_is_left(self) -> None:
        count = len(self.waiting) + len(self.working)
        assert self.turns.room == RUNS_MAX - count
        idle_count = WORKERS_MAX - len(self.working) - len(self.waiting)
        assert self.turns.batch_room(0) == max(0, min(idle_count, WORKERS_MAX // 2))
        assert self.turns.batch_room(WORKERS_MAX // 2) == 0

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        busy = {self.thread_of[run_id] for run_id in self.working}
        assert len(busy) == len(self.working) <= WORKERS_MAX
        with_runs = {self.owner_of[run_id] for run_id in [*self.waiting, *self.working]}
        assert {place.owner for place in self.turns._places} == with_runs, "who has no runs is forgotten"
        if len(self.working) < WORKERS_MAX:
            assert all(self.thread_of[run_id] in busy for run_id in self.waiting)


TestTurns = TurnsMachine.TestCase
TestTurns.settings = settings(max_examples=40)


def test_a_refusal_says_how_many_are_allowed_and_when_to_come_again() -> None:
    turns = Turns(workers_max=1, runs_max=9, runs_per_owner_max=1)
    turns.reserve(OWNERS[0])
    turns.reserve(OWNERS[1])
    with pytest.raises(TooManyRuns) as refusal:
        turns.reserve(OWNERS[0])
    assert refusal.value.facts == {"runs_max": "1"}
    assert refusal.value.retry_after_s


def test_runs_of_batches_take_no_place_from_others_of_their_owner() -> None:
    turns, ann = Turns(workers_max=4, runs_max=3, runs_per_owner_max=1), Owner("org", "ann")
    turns.admit(ann, is_batch=True)
    turns.reserve(ann)
    with pytest.raises(TooManyRuns):
        turns.reserve(ann)
    turns.release(ann, is_batch=True)
    with pytest.raises(TooManyRuns):
        turns.reserve(ann)
    turns.release(ann)
    turns.reserve(ann)
    assert turns.room == 2
