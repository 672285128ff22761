"""The life of a run: what happens goes in, what is told of it and said in the thread comes out.

No clock and no I/O: callers pass `now_s`, and store what the methods return, each answer whole. The
events follow the grammar of the proto's RunEvent, whenever and however a run ends; `end` closes what
is open, so that a thread never holds a call without its result. A run whose worker was lost, or that
waited for a person, is `replayed` from its stored events, and somebody else goes on with it: the step
that is open is asked again, and told on from where it stopped.

Invariants, each asserted by tests/unit/test_agent_run.py:
  I1  The events are Started Step* Finished, with exactly one Finished and nothing after it.
  I2  Every ToolCalled has exactly one ToolReturned, in the same step.
  I3  Once `limit` is set, nothing more is asked and no call may be made.
  I4  The counts of the steps add up to those of the run.
  I5  Replayed anywhere and gone on with, a run tells and says the same as one that was never lost.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from uuid import UUID

from services.agent.core.budget import Limits, Usage, limit_of_asking, limit_of_calling
from services.agent.core.conversation import Message, Role, ToolCall
from services.agent.core.events import (
    ApprovalRequested,
    ApprovalResolved,
    CallWritten,
    Channel,
    Decision,
    Delta,
    Event,
    Finished,
    Started,
    Status,
    StepFinished,
    StepRestarted,
    StepStarted,
    ToolCalled,
    ToolOutput,
    ToolReturned,
)
from services.agent.core.retelling import Retelling, RetoldOutput

Entry = Event | Message
Entries = tuple[Entry, ...]

TRUNCATED = "output_token_count_per_call"
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
        self._is_replayed = False
        self._began_s: float | None = None
        self._step_began_s: float | None = None
        self._step_used = Usage()
        self._told = Delta()  # In this step, and not yet said in the thread.
        self._retelling: Retelling | None = None  # While the open step is asked again.
        self._outputs = RetoldOutput()
        self._open: dict[str, ToolCall] = {}
        self._questions: dict[UUID, ApprovalRequested] = {}  # That nobody has answered.
        self._waiting_since_s: float | None = None
        self._waited_s = 0.0

    def begin(self, question: str, *, now_s: float) -> Entries:
        """The thread is the run's own now."""
        assert self._began_s is None, "a run begins once"
        return self._start(now_s), Message(role=Role.USER, content=question)

    def ask(self, *, now_s: float) -> Entries:
        """The model is to be asked, unless that sets `limit`."""
        assert self._began_s is not None
        if self._is_replayed and self._step_began_s is not None and not self._open:
            self._retelling = Retelling(self.used.step_count, self._told)
            return ()
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
        retelling = self._retelling
        return self._tell((delta,) if retelling is None or retelling.is_over else retelling.hear(delta))

    def hear_call(self, piece: CallWritten) -> Entries:
        """The model writes a call. Of a step that is asked again, only the whole call is told."""
        assert self._step_began_s is not None
        return () if self._retelling is not None else (piece,)

    def answer(self, answer: Answer, *, now_s: float) -> Entries:
        """The model has written. Its calls may be made, unless `limit` is set."""
        assert self._step_began_s is not None
        rest = self._tell(self._retelling.end()) if self._retelling is not None else ()
        self._retelling = None
        self._use(
            Usage(prompt_token_count=answer.prompt_token_count, output_token_count=answer.output_token_count)
        )
        self.limit = limit_of_calling(self._limits, self.used, wanted_count=len(answer.calls))
        if not answer.calls:
            if answer.truncated:
                self.limit = TRUNCATED
            return *rest, *self._say(()), self._finish_step(now_s, truncated=answer.truncated)
        if self.limit is None:
            self._use(Usage(tool_call_count=len(answer.calls)))
        self._open = {call.call_id: call for call in answer.calls}
        return *rest, *self._say(answer.calls), *map(ToolCalled, answer.calls)

    def tool_wrote(self, call_id: str, channel: Channel, text: str) -> Entries:
        assert call_id in self._open
        return self._outputs.hear(ToolOutput(call_id, channel, text))

    def tool_returned(self, returned: ToolReturned, *, now_s: float) -> Entries:
        """A tool has answered; with the last of its calls a step ends."""
        entries = self._return(returned)
        return entries if self._open else (*entries, self._finish_step(now_s))

    def question(self, question: ApprovalRequested, *, now_s: float) -> Entries:
        """A call waits for a person. The time that it waits is not the run's."""
        assert question.call_id in self._open
        if not self._questions:
            self._waiting_since_s = now_s
        self._questions[question.approval_id] = question
        return (question,)

    def resolve(self, resolved: ApprovalResolved, *, now_s: float) -> Entries:
        """The person has decided, or time has."""
        del self._questions[resolved.approval_id]
        if not self._questions and self._waiting_since_s is not None:
            self._waited_s += max(0.0, now_s - self._waiting_since_s)
            self._waiting_since_s = None
        return (resolved,)

    @property
    def has_begun(self) -> bool:
        """Whether anything was told of it."""
        return self._began_s is not None

    @property
    def questions(self) -> tuple[ApprovalRequested, ...]:
        """What nobody has decided yet."""
        return tuple(self._questions.values())

    def wall_left_s(self, *, now_s: float) -> float:
        """How long it may still work."""
        return self._limits.wall_s - self._worked_s(now_s)

    def end(self, ending: Ending, *, now_s: float) -> Entries:
        """Whatever is open is closed, then the run."""
        assert not self.ended, "a run ends once"
        entries: list[Entry] = []
        if self._began_s is None:
            entries.append(self._start(now_s))
        if self._step_began_s is not None:
            entries += self._close(now_s)
        self.ended = True
        self.used = replace(self.used, wall_s=self._worked_s(now_s))
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
    def replayed(
        cls, told: Iterable[tuple[float, Event]], *, model: str, limits: Limits, used: Usage | None = None
    ) -> "Run":
        """The run of which these events, each with its time, were stored, and which had used so much."""
        run = cls(model=model, limits=limits)
        for time_s, event in told:
            run._replay(event, time_s)
        run._settle(used or run.used)
        run._is_replayed = True
        return run

    def _settle(self, used: Usage) -> None:
        """What the events of the open step do not tell: the tokens of its answer, and whether its calls may be made."""
        tokens = Usage(
            prompt_token_count=max(0, used.prompt_token_count - self.used.prompt_token_count),
            output_token_count=max(0, used.output_token_count - self.used.output_token_count),
        )
        self._use(tokens)
        if self._open and self.used.tool_call_count > self._limits.tool_call_count:
            self.limit = "tool_call_count"
            self._use(Usage(tool_call_count=-self._step_used.tool_call_count))

    def _replay(self, event: Event, time_s: float) -> None:  # noqa: C901 - One case for each kind of event.
        match event:
            case Started():
                self._start(time_s)
            case StepStarted():
                self._step_began_s = time_s
                self._use(Usage(step_count=1, model_call_count=1))
            case Delta() | StepRestarted():
                self._tell((event,))
            case ToolCalled(call):
                self._told = Delta()
                self._open[call.call_id] = call
                self._use(Usage(tool_call_count=1))
            case ToolReturned():
                self._outputs.end(event.call_id)
                self._open.pop(event.call_id)
            case ApprovalRequested():
                self.question(event, now_s=time_s)
            case ApprovalResolved():
                self.resolve(event, now_s=time_s)
            case StepFinished():
                self._replay_end_of_step(event)
            case Finished():
                self.ended = True
            case ToolOutput():
                self._outputs.add(event)
            case CallWritten():
                pass

    def _replay_end_of_step(self, finished: StepFinished) -> None:
        usage, counted = finished.usage, self._step_used
        # What only the model's answer told: how many tokens it took. Calls that a limit forbade were not counted.
        self._use(
            Usage(
                prompt_token_count=usage.prompt_token_count,
                output_token_count=usage.output_token_count,
                tool_call_count=usage.tool_call_count - counted.tool_call_count,
            )
        )
        if finished.truncated:
            self.limit = TRUNCATED
        self._close_step()

    def _start(self, now_s: float) -> Started:
        self._began_s = now_s
        return Started(self._model)

    def _tell(self, events: tuple[Event, ...]) -> Entries:
        for event in events:
            match event:
                case Delta(text, thinking):
                    self._told = Delta(self._told.text + text, self._told.thinking + thinking)
                case StepRestarted():
                    self._told = Delta()
                case _:
                    raise AssertionError("a step is told in deltas")
        return events

    def _say(self, calls: tuple[ToolCall, ...]) -> tuple[Message, ...]:
        text = self._told.text
        self._told = Delta()
        if not text and not calls:
            return ()  # A thread holds no empty messages: models refuse to read them.
        return (Message(role=Role.ASSISTANT, content=text, calls=calls),)

    def _return(self, returned: ToolReturned) -> Entries:
        call = self._open.pop(returned.call_id)
        self._outputs.end(returned.call_id)
        said = Message(
            role=Role.TOOL, content=returned.content, call_id=returned.call_id, tool_name=call.name
        )
        return returned, said

    def _close(self, now_s: float) -> Entries:
        """What is open in the step, ended."""
        entries: list[Entry] = [*self._say(())]
        for question in self.questions:
            lapsed = ApprovalResolved(approval_id=question.approval_id, decision=Decision.EXPIRED, user_id="")
            entries += self.resolve(lapsed, now_s=now_s)
        for call_id in list(self._open):
            entries += self._return(
                ToolReturned(call_id=call_id, content=CALL_ENDED, failed=True, duration_s=0.0)
            )
        return *entries, self._finish_step(now_s)

    def _worked_s(self, now_s: float) -> float:
        began_s = now_s if self._began_s is None else self._began_s
        waits_s = 0.0 if self._waiting_since_s is None else max(0.0, now_s - self._waiting_since_s)
        return max(0.0, now_s - began_s - self._waited_s - waits_s)

    def _finish_step(self, now_s: float, *, truncated: bool = False) -> StepFinished:
        wall_s = max(0.0, now_s - (self._step_began_s or now_s))
        finished = StepFinished(
            self.used.step_count, replace(self._step_used, wall_s=wall_s), truncated=truncated
        )
        self._close_step()
        return finished

    def _close_step(self) -> None:
        self._step_began_s = None
        self._step_used = Usage()
        self._told, self._retelling = Delta(), None

    def _use(self, usage: Usage) -> None:
        self.used += usage
        self._step_used += usage
