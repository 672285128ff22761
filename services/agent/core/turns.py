"""Which accepted run works next.

No clock and no I/O. A run has a place from its acceptance to its end; it waits for its thread and for
a worker. The order is that of positions, which the store gives: they rise as runs are committed, and
may arrive here in another order. A run whose turn it is not after all, because an earlier one of its
thread works at another replica, is done for now and queues again.

Invariants, each asserted by tests/unit/test_agent_turns.py:
  I1  At most `workers_max` runs work, and no two on the same thread.
  I2  At most `runs_max` runs have places, and at most `runs_per_owner_max` of one owner that were reserved;
      beyond that, as many as work at once, of those for which others wait: see `urgent_room`.
  I3  After `next`, no run waits whose thread is free while a worker is.
  I4  A run does not start while one of a lower position waits for the same thread.
"""

from collections import Counter
from dataclasses import dataclass

from services.agent.core.ids import Owner, RunId, ThreadId
from services.agent.errors import TooManyRuns


@dataclass(frozen=True, slots=True)
class _Place:
    """Whose it is. Runs of batches are bounded where they are accepted, and take no place from others of their owner."""

    owner: Owner
    is_batch: bool = False


@dataclass(frozen=True, slots=True)
class _Waiting:
    position: int
    thread_id: ThreadId


class Turns:
    def __init__(self, *, workers_max: int, runs_max: int, runs_per_owner_max: int) -> None:
        self._workers_max = workers_max
        self._runs_max, self._runs_per_owner_max = runs_max, runs_per_owner_max
        self._places: Counter[_Place] = Counter()
        self._waiting: dict[RunId, _Waiting] = {}
        self._working: dict[RunId, ThreadId] = {}

    def reserve(self, owner: Owner) -> None:
        """Take a place, or raise TooManyRuns: an early refusal beats a run that nobody gets to."""
        if self._places[_Place(owner)] >= self._runs_per_owner_max:
            raise TooManyRuns(runs_max=self._runs_per_owner_max)
        if self._places.total() >= self._runs_max:
            raise TooManyRuns(runs_max=self._runs_max)
        self._places[_Place(owner)] += 1

    def admit(self, owner: Owner, *, is_batch: bool = False) -> None:
        """Take a place for a run that was accepted elsewhere: see `room`."""
        self._places[_Place(owner, is_batch)] += 1

    @property
    def room(self) -> int:
        """How many more runs may have places."""
        return max(0, self._runs_max - self._places.total())

    @property
    def urgent_room(self) -> int:
        """How many more may come of those that have begun, or are only to end.

        Whoever has a place may be waiting for one of them; so they never wait for a place themselves.
        """
        return max(0, self._runs_max + self._workers_max - self._places.total())

    def batch_room(self, batch_count: int) -> int:
        """How many more runs of batches may come, where there are so many: they take what is idle, half at most."""
        idle_count = self._workers_max - len(self._working) - len(self._waiting)
        return max(0, min(idle_count, max(1, self._workers_max // 2) - batch_count))

    def release(self, owner: Owner, *, is_batch: bool = False) -> None:
        """Give a place back: nothing was accepted, or it has ended."""
        place = _Place(owner, is_batch)
        self._places[place] -= 1
        if self._places[place] == 0:
            del self._places[place]  # Bounded by those who have runs, not by those who ever had.

    def queue(self, run_id: RunId, thread_id: ThreadId, *, position: int) -> None:
        """A run that has its place waits for its turn."""
        self._waiting[run_id] = _Waiting(position, thread_id)

    def next(self) -> list[RunId]:
        """The runs that work from now on."""
        started: list[RunId] = []
        busy = set(self._working.values())
        # Sorted anew, and not kept sorted: `runs_max` bounds the queue.
        for run_id, waiting in sorted(self._waiting.items(), key=lambda item: item[1].position):
            if len(self._working) >= self._workers_max:
                break
            if waiting.thread_id not in busy:
                busy.add(waiting.thread_id)
                self._working[run_id] = waiting.thread_id
                started.append(run_id)
        for run_id in started:
            del self._waiting[run_id]
        return started

    def skip(self, run_id: RunId) -> bool:
        """The run need not wait any more. Return whether it did."""
        return self._waiting.pop(run_id, None) is not None

    def done(self, run_id: RunId) -> None:
        """The run works no longer. Idempotent."""
        self._working.pop(run_id, None)
