"""Tells one run's story: what the agent does becomes entries of the core, entries go to the journal."""

from collections.abc import Callable

from services.agent.core.events import Channel, Delta, ToolReturned
from services.agent.core.run import Answer, Ending, Entries, Run
from services.agent.errors import LimitReached
from services.agent.journal import Journal
from services.agent.ports import ToolResult


class RunRecorder:
    """Implements ports.Recorder, and what the engine tells besides."""

    def __init__(self, run: Run, journal: Journal, *, clock: Callable[[], float]) -> None:
        self.model_answers = False  # Whether the model has been seen to exist.
        self._run, self._journal, self._clock = run, journal, clock

    def begin(self, question: str) -> None:
        self._tell(self._run.begin(question, now_s=self._clock()))

    def end(self, ending: Ending) -> None:
        self._tell(self._run.end(ending, now_s=self._clock()))

    def ask(self) -> int:
        self._tell(self._run.ask(now_s=self._clock()))
        self._check()
        return self._run.used.step_count

    async def hear(self, delta: Delta) -> None:
        self.model_answers = True
        self._tell(self._run.hear(delta))
        await self._journal.room()

    async def answer(self, answer: Answer) -> None:
        self.model_answers = True
        self._tell(self._run.answer(answer, now_s=self._clock()))
        self._check()
        if answer.calls:
            await self._journal.committed()  # What a tool does is not done before it is written down.

    async def tool_wrote(self, call_id: str, channel: Channel, text: str) -> None:
        self._tell(self._run.tool_wrote(call_id, channel, text))
        await self._journal.room()

    def tool_returned(self, call_id: str, result: ToolResult, *, duration_s: float) -> None:
        returned = ToolReturned(
            call_id=call_id, content=result.content, failed=result.failed, duration_s=duration_s
        )
        self._tell(self._run.tool_returned(returned, now_s=self._clock()))

    def _tell(self, entries: Entries) -> None:
        self._journal.write(entries, usage=self._run.used)

    def _check(self) -> None:
        if self._run.limit is not None:
            raise LimitReached(self._run.limit)
