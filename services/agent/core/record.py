"""What a run has told, step by step: for whoever goes on with it, so that nothing is asked or done twice."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from services.agent.core.conversation import ToolCall
from services.agent.core.events import (
    ApprovalRequested,
    ApprovalResolved,
    Delta,
    Event,
    StepFinished,
    StepRestarted,
    StepStarted,
    ToolCalled,
    ToolReturned,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the model wrote in one step, whole."""

    text: str
    thinking: str
    calls: tuple[ToolCall, ...]


@dataclass(slots=True)
class _Step:
    text: str = ""
    thinking: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    finished: bool = False


class Record:
    """The tale of a run so far. Built from its stored events, in their order."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._steps: dict[int, _Step] = {}
        self._returned: dict[str, ToolReturned] = {}
        self._asked: dict[str, ApprovalRequested] = {}  # By call, while nobody has decided.
        self._resolved: dict[str, ApprovalResolved] = {}  # By call.
        for event in events:
            self.add(event)

    def said(self, step: int) -> Said | None:
        """What the model answered in that step, if that was told to its end."""
        told = self._steps.get(step)
        if told is None or not (told.finished or told.calls):
            return None
        return Said(text=told.text, thinking=told.thinking, calls=tuple(told.calls))

    def returned(self, call_id: str) -> ToolReturned | None:
        """What the call returned, if that was told."""
        return self._returned.get(call_id)

    def asked(self, call_id: str) -> ApprovalRequested | None:
        """The question about the call that nobody has decided."""
        return self._asked.get(call_id)

    def resolved(self, call_id: str) -> ApprovalResolved | None:
        """What was decided about the call."""
        return self._resolved.get(call_id)

    @property
    def questions(self) -> tuple[ApprovalRequested, ...]:
        """Every one that nobody has decided."""
        return tuple(self._asked.values())

    def add(self, event: Event) -> None:
        """The tale goes on."""
        match event:
            case StepStarted(step):
                self._steps[step] = _Step()
            case StepRestarted(step):
                self._steps[step] = _Step()
            case Delta(text, thinking):
                self._last.text += text
                self._last.thinking += thinking
            case ToolCalled(call):
                self._last.calls.append(call)
            case ToolReturned(call_id=call_id):
                self._returned[call_id] = event
            case ApprovalRequested(call_id=call_id):
                self._asked[call_id] = event
            case ApprovalResolved(approval_id=approval_id):
                call_id = next(key for key, asked in self._asked.items() if asked.approval_id == approval_id)
                del self._asked[call_id]
                self._resolved[call_id] = event
            case StepFinished(step):
                self._steps[step].finished = True
            case _:
                pass

    @property
    def _last(self) -> _Step:
        return self._steps[max(self._steps)]
