"""Tells one run's story: what the agent does becomes entries of the core, entries go to the journal.

It also knows the story so far, if others began it, so that an agent that goes on asks and does nothing twice.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from uuid import UUID, uuid4

from services.agent.core.approvals import Decided, hash_of, resolved
from services.agent.core.conversation import Message, ToolCall
from services.agent.core.events import ApprovalRequested, CallWritten, Channel, Delta, ToolReturned
from services.agent.core.record import Record, Said
from services.agent.core.run import Answer, Ending, Entries, Run
from services.agent.core.taint import Taint
from services.agent.errors import LimitReached
from services.agent.journal import Journal
from services.agent.observing import Observed
from services.agent.ports import ToolResult
from services.common.tracing.current import within


class RunRecorder:
    """Implements agents.Recorder, and what the engine tells besides."""

    def __init__(  # noqa: PLR0913 - Called by the worker alone.
        self,
        run: Run,
        journal: Journal,
        *,
        record: Record,
        observed: Observed,
        taint: Taint,
        claim: Callable[[str], Awaitable[bool]],
        approval_wait_s: float,
        clock: Callable[[], float],
    ) -> None:
        self.model_answers = False  # Whether the model has been seen to exist.
        self._run, self._journal, self._record, self._clock = run, journal, record, clock
        self._taint = taint
        self._claim, self._approval_wait_s = claim, approval_wait_s
        self._observed = observed
        self._decided: dict[UUID, Decided] = {}
        self.is_safe = asyncio.Event()  # Nothing is under way that nobody could make again.
        self.is_safe.set()
        self._claimed: set[str] = set()

    def begin(self, question: str) -> None:
        self._tell(self._run.begin(question, now_s=self._clock()))

    def end(self, ending: Ending) -> None:
        self._tell(self._run.end(ending, now_s=self._clock()))

    def resolve(self, decided: Mapping[UUID, Decided]) -> None:
        """What people, or time, decided about the run's questions, whether or not that was told before."""
        self._decided = dict(decided)
        for question in self._run.questions:
            if question.approval_id in decided:
                told = resolved(question, decided[question.approval_id])
                self._tell(self._run.resolve(told, now_s=self._clock()))
                self._record.add(told)

    def asking(self) -> AbstractContextManager[None]:
        return within(self._observed.trace.step)

    def calling(self, call_id: str) -> AbstractContextManager[None]:
        return within(self._observed.trace.call(call_id))

    @property
    def step_count(self) -> int:
        return self._run.used.step_count

    @property
    def is_tainted(self) -> bool:
        return self._taint.is_there

    def said(self, step: int) -> Said | None:
        said = self._record.said(step)
        if said is not None:
            self.model_answers = True
            self._check()
        return said

    def ask(self) -> int:
        self._tell(self._run.ask(now_s=self._clock()))
        self._check()
        return self._run.used.step_count

    async def hear(self, delta: Delta) -> None:
        self.model_answers = True
        self._tell(self._run.hear(delta))
        await self._journal.room()

    async def hear_call(self, piece: CallWritten) -> None:
        self.model_answers = True
        self._tell(self._run.hear_call(piece))
        await self._journal.room()

    async def answer(self, answer: Answer) -> None:
        self.model_answers = True
        self._tell(self._run.answer(answer, now_s=self._clock()))
        self._check()
        # What a tool does is not done, and what comes next is not stored, before this is written down.
        await self._journal.committed()

    async def tool_wrote(self, call_id: str, channel: Channel, text: str) -> None:
        self._tell(self._run.tool_wrote(call_id, channel, text))
        await self._journal.room()

    def returned(self, call_id: str) -> ToolReturned | None:
        return self._record.returned(call_id)

    def is_asked(self, call_id: str) -> bool:
        return self._record.asked(call_id) is not None or self._record.resolved(call_id) is not None

    async def question(self, call: ToolCall, reason: str) -> Decided | None:
        told = self._record.resolved(call.call_id)
        if told is not None:
            return self._decided[told.approval_id]
        if all(question.call_id != call.call_id for question in self._run.questions):
            now_s = self._clock()
            question = ApprovalRequested(
                approval_id=uuid4(),
                call_id=call.call_id,
                call_hash=hash_of(call),
                reason=reason,
                expire_time_s=now_s + self._approval_wait_s,
            )
            self._tell(self._run.question(question, now_s=now_s))
            await self._journal.committed()
        return None

    async def claim(self, call_id: str) -> bool:
        is_first = await self._claim(call_id)
        if is_first:
            self._claimed.add(call_id)
            self.is_safe.clear()
        return is_first

    async def tool_returned(
        self, call_id: str, result: ToolResult, *, duration_s: float, remembered: bool = False
    ) -> None:
        returned = ToolReturned(
            call_id=call_id,
            content=result.content,
            failed=result.failed,
            duration_s=duration_s,
            remembered=remembered,
        )
        self._tell(self._run.tool_returned(returned, now_s=self._clock()))
        await self._journal.committed()
        self._claimed.discard(call_id)
        if not self._claimed:
            self.is_safe.set()

    def _tell(self, entries: Entries) -> None:
        for entry in entries:
            if not isinstance(entry, Message):
                self._taint.add(entry)
        self._journal.write(entries, usage=self._run.used)
        self._observed.tell(entries, now_s=self._clock())

    def _check(self) -> None:
        if self._run.limit is not None:
            raise LimitReached(self._run.limit)
