"""What works on runs, and what it is given for that."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from services.agent.core.approvals import Decided
from services.agent.core.conversation import Message, ToolCall
from services.agent.core.events import CallWritten, Channel, Delta, ToolReturned
from services.agent.core.ids import Owner, RunId, ThreadId
from services.agent.core.record import Said
from services.agent.core.run import Answer
from services.agent.core.run_config import RunConfig
from services.agent.leases import Lease
from services.agent.ports import ToolResult


class Recorder(Protocol):
    """Where an agent tells what it does, in the order of the grammar of RunEvent."""

    @property
    def is_tainted(self) -> bool:
        """Whether the model may have read what others wrote when it wrote the calls that are open."""
        ...

    def asking(self) -> AbstractContextManager[None]:
        """What is done in the block is done for the step that has begun."""
        ...

    def calling(self, call_id: str) -> AbstractContextManager[None]:
        """What is done in the block is done for the call."""
        ...

    @property
    def step_count(self) -> int:
        """How many steps have begun."""
        ...

    def said(self, step: int) -> Said | None:
        """What the model answered in that step, if whoever worked on the run before heard it to its end.

        Raises LimitReached.
        """
        ...

    def ask(self) -> int:
        """A step begins. Return its number, or raise LimitReached."""
        ...

    async def hear(self, delta: Delta) -> None:
        """The model writes. Waits only if the store is far behind."""
        ...

    async def hear_call(self, piece: CallWritten) -> None:
        """The model writes a call. Waits only if the store is far behind."""
        ...

    async def answer(self, answer: Answer) -> None:
        """The model has written. Returns when that is committed; raises LimitReached."""
        ...

    async def tool_wrote(self, call_id: str, channel: Channel, text: str) -> None:
        """A tool writes. Waits only if the store is far behind."""
        ...

    def returned(self, call_id: str) -> ToolReturned | None:
        """What the call returned to whoever worked on the run before."""
        ...

    def is_asked(self, call_id: str) -> bool:
        """Whether a person was ever asked about the call."""
        ...

    async def question(self, call: ToolCall, reason: str) -> Decided | None:
        """What a person decided about the call; None: they are asked by now, and have not."""
        ...

    async def claim(self, call_id: str) -> bool:
        """Whether the call is made for the first time; what is not repeatable asks just before it is made."""
        ...

    async def tool_returned(
        self, call_id: str, result: ToolResult, *, duration_s: float, remembered: bool = False
    ) -> None:
        """A tool has answered. Returns when that is committed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """All that an agent needs to know of a run."""

    run_id: RunId
    thread_id: ThreadId
    owner: Owner
    config: RunConfig
    messages: Sequence[Message]  # The question is the last.
    summary: str  # Of what was said before them; empty if there is none.
    deadline_s: float  # Of the event loop's clock; the engine ends the run by then.
    lease: Lease
    is_batch: bool
    is_resumed: bool  # Somebody has worked on it before.
    is_handed_over: Callable[[], bool]  # Whether somebody else goes on with it.
    token: Callable[[], Awaitable[str]]  # To act with, now. Raises AccessEnded.


class Agent(Protocol):
    async def work(self, assignment: Assignment, recorder: Recorder) -> str:
        """Return the answer. Raises LimitReached, ModelFailed, AccessEnded, or Waits once only people can go on.

        Cancelling it stops model and tools.
        """
        ...
