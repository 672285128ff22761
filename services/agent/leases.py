"""By what right a replica works on a run, and how the right passes on.

A run is held by one replica at a time, by a lease that it renews. A replica that dies, or is silent for longer than its
lease, loses its runs to others; one that stops, or whose run waits for a person, gives them back by itself. Whenever a
run changes hands its fence rises, and whatever is written for a run names holder and fence: what an earlier holder
still writes, even one in the same process, finds nothing to write to.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from services.agent.core.budget import Usage
from services.agent.core.conversation import Message
from services.agent.core.ids import AssistantId, Owner, RunId, ThreadId
from services.agent.core.run_config import RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    run_id: RunId
    holder: UUID
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A run that this replica answers for, as it found it."""

    lease: Lease
    thread_id: ThreadId
    owner: Owner
    position: int  # In its thread; see RunRecord.
    question: str
    config: RunConfig
    assistant_id: AssistantId | None = None  # Whose configuration it began with.
    assistant_version: int = 0
    is_batch: bool = False
    usage: Usage = field(default_factory=Usage)
    last_sequence: int = 0
    attempt_count: int = 0  # How many replicas were lost with it.
    is_cancelled: bool = False  # Somebody wants its end.
    trace_parent: str | None = None  # In which trace it was accepted.
    mandate: str | None = field(
        default=None, repr=False
    )  # What it can be acted with, whoever goes on with it.


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What was said in a thread before a run, oldest first."""

    messages: Sequence[Message]
    is_whole: bool  # There was never more.


class Leases(Protocol):
    """The runs of one replica. Every method raises StoreFailure when the store does not answer."""

    async def begin(self, lease: Lease) -> bool:
        """Make the run RUNNING, unless an earlier one of its thread has not ended yet.

        Raises LeaseLost.
        """
        ...

    async def history(self, run_id: RunId, *, count_max: int) -> History:
        """The newest messages of the run's thread that were said before it, oldest first."""
        ...

    async def keep(self, leases: Collection[Lease]) -> Mapping[RunId, bool]:
        """Renew leases. Of each run that is still held: whether somebody, or nobody's watching it, wants its end."""
        ...

    async def adopt(
        self, *, count_max: int, batch_count_max: int, urgent_count_max: int = 0
    ) -> Sequence[Held]:
        """Take over runs that nobody holds, or whose leases have run out: so many, and of batches so many.

        `urgent_count_max` is how many they may be, batches aside, if the rest have begun or are only to end.
        """
        ...

    async def take(self, run_id: RunId) -> Held | None:
        """Take over one run that nobody holds, whatever it waits for."""
        ...

    async def wake(self, run_id: RunId) -> None:
        """Have a run that nobody holds taken by whoever looks next."""
        ...

    async def suspend(self, lease: Lease, questions: Mapping[UUID, float]) -> None:
        """Let go of a run that waits for people to answer; each question has the time when it lapses.

        Whoever looks then takes it; at once, if one of them has been answered by now. Raises LeaseLost.
        """
        ...

    async def give_back(self, lease: Lease) -> None:
        """Let go of a run that anybody can go on with at once. Raises LeaseLost."""
        ...

    async def claim(self, lease: Lease, call_id: str) -> bool:
        """Whether the call is made here for the first time. Raises LeaseLost."""
        ...

    async def keep_mandate(self, lease: Lease, owner: Owner, mandate: str) -> None:
        """Have the mandate, sealed, for whoever goes on with the run. Raises LeaseLost."""
        ...
