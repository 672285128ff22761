"""Who gets a place next, and who is refused one.

What runs holds a running place and its memory limit, a session holds its memory as long as it is there: so
programs cannot use more memory together than there is, however many are asked for.

The next place goes to the user with the smallest dominant share, which is the larger of their parts of the running
places and of the memory (Ghodsi et al., 2011); among equals, to who has had none for longest. So one user's flood
delays that user, and nobody who holds less. One that does not fit yet may be passed by PASSES_MAX smaller ones; then
all wait for it. So a place is not left empty for long, and nobody starves for being large.
"""

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from services.common.errors import InvalidRequest, Violation
from services.sandbox.core.owners import Owner
from services.sandbox.errors import QueueFull, TooManyExecutions

PASSES_MAX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What is needed."""

    memory_bytes: int = 0  # None in the jail of a session, which holds its own.
    runs: bool = True  # False for a session, which runs nothing by itself.


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    memory_bytes: int  # Of all places together.
    session_memory_bytes: int  # Of these, what sessions may hold, so that executions always find some.
    running_max: int
    waiting_max: int
    user_executions_max: int  # That one user has under way: running and waiting together.


@dataclass(slots=True, eq=False)
class Ticket:
    owner: Owner
    claim: Claim
    number: int  # When it was asked for.
    is_held: bool = False
    is_returned: bool = False
    passed_count: int = 0  # How often a later one went first because this one did not fit.


@dataclass(slots=True)
class _Use:
    """What one user has."""

    held_count: int = 0
    memory_bytes: int = 0
    running_count: int = 0
    moved_at: int = 0  # When they last got a place or gave one back.
    waiting: deque[Ticket] = field(default_factory=deque)

    @property
    def is_none(self) -> bool:
        return not (self.held_count or self.waiting)


class Admission:
    """The books. Call `advance` after each change."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.memory_bytes = self.running_count = self.waiting_count = 0
        self._session_memory_bytes = 0
        self._now = 0  # Counts what happens.
        self._uses: dict[Owner, _Use] = {}

    def ask(self, owner: Owner, claim: Claim) -> Ticket:
        """Join those who wait. Raises InvalidRequest for what never fits, QueueFull or TooManyExecutions."""
        self._check_size(claim)
        use = self._uses.get(owner) or _Use()
        if self.waiting_count >= self.bounds.waiting_max and not self._is_free(claim):
            raise QueueFull(waiting_max=self.bounds.waiting_max)
        if claim.runs and use.running_count + len(use.waiting) >= self.bounds.user_executions_max:
            raise TooManyExecutions(executions_max=self.bounds.user_executions_max)
        ticket = Ticket(owner, claim, self._tick())
        self._uses.setdefault(owner, use).waiting.append(ticket)
        self.waiting_count += 1
        if not claim.runs:
            self._session_memory_bytes += claim.memory_bytes
        return ticket

    def advance(self) -> list[Ticket]:
        """Give out what is free. Return whom it went to."""
        granted = []
        while (ticket := self._next()) is not None:
            self._hold(ticket)
            granted.append(ticket)
        return granted

    def give_back(self, ticket: Ticket) -> None:
        """It is not needed any more, held or not. Idempotent."""
        if ticket.is_returned:
            return
        ticket.is_returned = True
        use, claim = self._uses[ticket.owner], ticket.claim
        if ticket.is_held:
            self._count(use, claim, -1)
        else:
            use.waiting.remove(ticket)
            self.waiting_count -= 1
        if not claim.runs:
            self._session_memory_bytes -= claim.memory_bytes
        if use.is_none:
            del self._uses[ticket.owner]

    def ahead_count(self, ticket: Ticket) -> int:
        """How many go before it, as things stand: if nobody came, left or ended, and places appeared."""
        return next(index for index, other in enumerate(self._order()) if other is ticket)

    def _order(self) -> Iterator[Ticket]:
        """Those who wait, as they would be served."""
        held = {owner: (use.running_count, use.memory_bytes) for owner, use in self._uses.items()}
        moved_at = {owner: use.moved_at for owner, use in self._uses.items()}
        lines = {owner: iter(use.waiting) for owner, use in self._uses.items()}
        heap: list[tuple[float, int, Ticket]] = []

        def join(owner: Owner) -> None:
            if (ticket := next(lines[owner], None)) is not None:
                since = max(ticket.number, moved_at[owner])
                heapq.heappush(heap, (self._share(*held[owner]), since, ticket))

        for owner in lines:
            join(owner)
        for then in count(self._now + 1):
            if not heap:
                return
            ticket = heapq.heappop(heap)[-1]
            yield ticket
            moved_at[ticket.owner] = then
            running_count, memory_bytes = held[ticket.owner]
            held[ticket.owner] = (
                running_count + ticket.claim.runs,
                memory_bytes + ticket.claim.memory_bytes,
            )
            join(ticket.owner)

    def _next(self) -> Ticket | None:
        """Whose turn it is, if what they need is free."""
        heads = [use.waiting[0] for use in self._uses.values() if use.waiting]
        heads.sort(key=self._turn)
        for index, ticket in enumerate(heads):
            if self._fits(ticket.claim):
                for passed in heads[:index]:
                    passed.passed_count += 1
                return ticket
            if ticket.passed_count >= PASSES_MAX:
                return None
        return None

    def _turn(self, ticket: Ticket) -> tuple[float, int]:
        use = self._uses[ticket.owner]
        return self._share(use.running_count, use.memory_bytes), max(ticket.number, use.moved_at)

    def _share(self, running_count: int, memory_bytes: int) -> float:
        return max(running_count / self.bounds.running_max, memory_bytes / self.bounds.memory_bytes)

    def _fits(self, claim: Claim) -> bool:
        return (
            self.running_count + claim.runs <= self.bounds.running_max
            and self.memory_bytes + claim.memory_bytes <= self.bounds.memory_bytes
        )

    def _is_free(self, claim: Claim) -> bool:
        """Whether it would not have to wait: without waiting places, what is free must still be given out."""
        return not self.waiting_count and self._fits(claim)

    def _check_size(self, claim: Claim) -> None:
        most_bytes = self.bounds.memory_bytes if claim.runs else self.bounds.session_memory_bytes
        if claim.memory_bytes > most_bytes:
            why = f"is more than the {most_bytes} bytes that there are for all"
            raise InvalidRequest([Violation("limits.memory_bytes", why)])
        if not claim.runs and self._session_memory_bytes + claim.memory_bytes > most_bytes:
            # It would wait for sessions to end, which takes minutes, and hold everybody up meanwhile.
            raise QueueFull(waiting_max=self.bounds.waiting_max)

    def _hold(self, ticket: Ticket) -> None:
        use = self._uses[ticket.owner]
        first = use.waiting.popleft()
        assert first is ticket
        self.waiting_count -= 1
        ticket.is_held = True
        self._count(use, ticket.claim, 1)

    def _count(self, use: _Use, claim: Claim, sign: int) -> None:
        use.moved_at = self._tick()
        use.held_count += sign
        use.memory_bytes += sign * claim.memory_bytes
        use.running_count += sign * claim.runs
        self.memory_bytes += sign * claim.memory_bytes
        self.running_count += sign * claim.runs

    def _tick(self) -> int:
        self._now += 1
        return self._now
