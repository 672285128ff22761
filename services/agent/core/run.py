"""The life of a run: what happens goes in, what is told of it and said in the thread comes out.

No clock and no I/O: callers pass `now_s`, and store what the methods return, each answer whole. The
events follow the grammar of the proto's RunEvent, whenever and however a run ends; `end` closes what
is open, so that a thread never holds a call without its result. A run whose worker was lost is
`replayed` from its stored events, and then ended by somebody else in the same way.

Invariants, each asserted by tests/unit/test_agent_run.py:
  I1  The events are Started Step* Finished, with exactly one Finished and nothing after it.
  I2  Every ToolCalled has exactly one ToolReturned, in the same step.
  I3  Once `limit` is set, nothing more is asked and no call may be made.
  I4  The counts of the steps add up to those of the run.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from services.agent.core.budget import Limits, Usage, limit_of_asking, limit_of_calling
from services.agent.core.conversation import Message, Role, ToolCall
from services.agent.core.events import (
    Channel,
    Delta,
    Event,
    Finished,
    Started,
    Status,
    StepFinished,
    StepStarted,
    ToolCalled,
    ToolOutput,
    ToolReturned,
)

Entry = Event | Message
Entries = tuple[Entry, ...]

CALL_ENDED = "The run ended before this call did."


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model wrote in one step; its text was heard before."""

    calls: tuple[ToolCall, ...]
    prompt_token_count: int
    output_token_count: int
    truncated: bool  # Cut off at the limit of tokens.


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run ends. `reason` is of the service's ErrorReason, without its prefix."""

    status: Status
    answer: str = ""
    reason: str = ""
    message: str = ""

    @classmethod
    def limited(cls, limit: str) -> "Ending":
        message = f"the run met its limit {limit}"
        return cls(status=Status.LIMITED, reason="LIMIT_REACHED", message=message)

    @classmethod
    def failed(cls, reason: str, message: str) -> "Ending":
        return cls(status=Status.FAILED, reason=reason, message=message)


SUCCEEDED = Status.SUCCEEDED
CANCELLED = Ending(status=Status.CANCELLED)
LOST = Ending.failed("RUN_LOST", "the replica that worked on the run was lost")


class Run:
    """One run. Every method returns what is to be stored, in order."""

    def __init__(self, *, model: str, limits: Limits) -> None:
        self.limit: str | None = None  # The one that was met.
        self.used = Usage()
        self.ended = False
        self._model, self._limits = model, limits
        self._began_s: float | None = None
        self._step_began_s: float | None = None
        self._step_used = Usage()
        self._text: list[str] = []  # Heard in this step and not yet said in the thread.
        self._open: dict[str, ToolCall] = {}

    def begin(self, question: str, *, now_s: float) -> Entries:
        """The thread is the run's own now."""
        assert self._began_s is None, "a run begins once"
        return self._start(now_s), Message(role=Role.USER, content=question)

    def ask(self, *, now_s: float) -> Entries:
        """The model is to be asked, unless that sets `limit`."""
        assert self._began_s is not None
        assert self._step_began_s is None, "a step begins after the one before"
        self.limit = limit_of_asking(self._limits, self.used)
        if self.limit is not None:
            return ()
        self._step_began_s = now_s
        self._use(Usage(step_count=1, model_call_count=1))
        return (StepStarted(self.used.step_count),)

    def hear(self, delta: Delta) -> Entries:
        """The model writes."""
        assert self._step_began_s is not None
        self._text.append(delta.text)
        return (delta,)

    def answer(self, answer: Answer, *, now_s: float) -> Entries:
        """The model has written. Its calls may be made, unless `limit` is set."""
        assert self._step_began_s is not None
        self._use(
            Usage(prompt_token_count=answer.prompt_token_count, output_token_count=answer.output_token_count)
        )
        self.limit = limit_of_calling(self._limits, self.used, wanted_count=len(answer.calls))
        if not answer.calls:
            if answer.truncated:
                self.limit = "output_token_count_per_call"
            return *self._say(()), self._finish_step(now_s)
        if self.limit is None:
            self._use(Usage(tool_call_count=len(answer.calls)))
        self._open = {call.call_id: call for call in answer.calls}
        return *self._say(answer.calls), *map(ToolCalled, answer.calls)

    def tool_wrote(self, call_id: str, channel: Channel, text: str) -> Entries:
        assert call_id in self._open
        return (ToolOutput(call_id, channel, text),)

    def tool_returned(
        self, call_id: str, content: str, *, failed: bool, duration_s: float, now_s: float
    ) -> Entries:
        """A tool has answered; with the last of its calls a step ends."""
        returned = self._return(call_id, content, failed=failed, duration_s=duration_s)
        return returned if self._open else (*returned, self._finish_step(now_s))

    def end(self, ending: Ending, *, now_s: float) -> Entries:
        """Whatever is open is closed, then the run."""
        assert not self.ended, "a run ends once"
        entries: list[Entry] = []
        if self._began_s is None:
            entries.append(self._start(now_s))
        if self._step_began_s is not None:
            entries += self._say(())
            for call_id in list(self._open):
                entries += self._return(call_id, CALL_ENDED, failed=True, duration_s=0.0)
            entries.append(self._finish_step(now_s))
        self.ended = True
        self.used = replace(self.used, wall_s=max(0.0, now_s - (self._began_s or now_s)))
        entries.append(
            Finished(
                status=ending.status,
                usage=self.used,
                answer=ending.answer,
                reason=ending.reason,
                message=ending.message,
            )
        )
        return tuple(entries)

    @classmethod
    def replayed(cls, told: Iterable[tuple[float, Event]], *, model: str, limits: Limits) -> "Run":
        """The run of which these events, each with its time, were stored."""
        run = cls(model=model, limits=limits)
        for time_s, event in told:
            run._replay(event, time_s)
        return run

    def _replay(self, event: Event, time_s: float) -> None:
        match event:
            case Started():
                self._start(time_s)
            case StepStarted():
                self._step_began_s = time_s
                self._use(Usage(step_count=1, model_call_count=1))
            case Delta():
                self._text.append(event.text)
            case ToolCalled(call):
                self._text.clear()
                self._open[call.call_id] = call
                self._use(Usage(tool_call_count=1))
            case ToolReturned():
                self._open.pop(event.call_id)
            case StepFinished(_, usage):
                # What only the model's answer told: how many tokens it took.
                self._use(replace(usage, step_count=0, model_call_count=0, tool_call_count=0, wall_s=0.0))
                self._close_step()
            case Finished():
                self.ended = True
            case ToolOutput():
                pass

    def _start(self, now_s: float) -> Started:
        self._began_s = now_s
        return Started(self._model)

    def _say(self, calls: tuple[ToolCall, ...]) -> tuple[Message, ...]:
        text = "".join(self._text)
        self._text.clear()
        if not text and not calls:
            return ()  # A thread holds no empty messages: models refuse to read them.
        return (Message(role=Role.ASSISTANT, content=text, calls=calls),)

    def _return(self, call_id: str, content: str, *, failed: bool, duration_s: float) -> Entries:
        call = self._open.pop(call_id)
        return (
            ToolReturned(call_id=call_id, content=content, failed=failed, duration_s=duration_s),
            Message(role=Role.TOOL, content=content, call_id=call_id, tool_name=call.name),
        )

    def _finish_step(self, now_s: float) -> StepFinished:
        wall_s = max(0.0, now_s - (self._step_began_s or now_s))
        finished = StepFinished(self.used.step_count, replace(self._step_used, wall_s=wall_s))
        self._close_step()
        return finished

    def _close_step(self) -> None:
        self._step_began_s = None
        self._step_used = Usage()
        self._text.clear()

    def _use(self, usage: Usage) -> None:
        self.used += usage
        self._step_used += usage
