"""Work that several requests do at one speed.

Everybody's progress is one clock that counts units (tokens) done since the work was last idle, so a change
of speed costs the same for one request as for a hundred. Each request has a goal on that clock.
"""

from heapq import heappop, heappush
from math import inf
from typing import Generic, Protocol, TypeVar


class Goer(Protocol):
    """Who is on its way. A goal that is not its own any more is forgotten when it comes up."""

    @property
    def id(self) -> int: ...

    goal: float


G = TypeVar("G", bound=Goer)


class Pace(Generic[G]):
    __slots__ = ("_goals", "count", "done", "rate")

    def __init__(self) -> None:
        self.count = 0  # Requests at work.
        self.done = 0.0
        self.rate = 0.0  # Units per second of each.
        self._goals: list[tuple[float, int, G]] = []

    def enter(self) -> None:
        self.count += 1

    def leave(self) -> None:
        self.count -= 1
        if not self.count:
            self.done = 0.0  # Small numbers keep their digits.
            self._goals.clear()

    def aim(self, goer: G, goal: float) -> None:
        """Let `goer` be due when the clock reads `goal`. Any goal that it had is void."""
        goer.goal = goal
        heappush(self._goals, (goal, goer.id, goer))

    def due_s(self) -> float:
        """Return in how many seconds the first is due."""
        goals = self._goals
        while goals and goals[0][2].goal != goals[0][0]:
            heappop(goals)
        if not goals or not self.rate:
            return inf
        return max(0.0, (goals[0][0] - self.done) / self.rate)

    def take_due(self) -> G:
        """Return the first, at its goal."""
        self.done, _, goer = heappop(self._goals)
        return goer
