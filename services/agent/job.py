"""A run of this replica, and what has been decided about it from outside."""

import asyncio
from dataclasses import dataclass, field

from services.agent.authority import Authority
from services.agent.core.ids import RunId
from services.agent.core.run import Ending
from services.agent.feed import Feed
from services.agent.leases import Held
from services.common.tracing.current import Current


@dataclass(slots=True, eq=False)
class Job:
    held: Held
    authority: Authority
    feed: Feed
    is_taken: bool = False  # Somebody had it before.
    asked_by: Current = None  # The call that started it, if it was answered here.
    verdict: Ending | None = None
    is_handed_over: bool = False  # Somebody else goes on with it.
    has_ended: bool = False  # Its end is committed.
    came_at_s: float = 0.0  # When it got its place here.
    began_at_s: float | None = None  # When its turn came; None while it waits.
    pause_s: float = 0.0  # Before it looks again whether it is its turn.
    task: asyncio.Task[Ending | None] | None = None
    is_safe: asyncio.Event | None = None  # Nothing is under way that nobody could make again.
    called_off: asyncio.Event = field(default_factory=asyncio.Event)  # It ends, or others go on.
    left: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def run_id(self) -> RunId:
        return self.held.lease.run_id

    def end(self, ending: Ending) -> None:
        """Whatever the agent is at, it stops; the first verdict holds."""
        self.verdict = self.verdict or ending
        self._call_off()

    def hand_over(self) -> None:
        """Whatever the agent is at, it stops, and nothing of that is told: somebody else goes on."""
        self.is_handed_over = True
        self._call_off()

    def _call_off(self) -> None:
        if self.called_off.is_set():
            return  # Once: a tool that is ending what it has under way must not be kept from that.
        self.called_off.set()
        if self.task is not None:
            self.task.cancel()
