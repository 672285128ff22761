"""What is told of a run. The proto's RunEvent has the same shapes and says what each means."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from uuid import UUID

from services.agent.core.budget import Usage
from services.agent.core.conversation import ToolCall


class Status(Enum):
    """How far a run is. All but the first three are ends."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    INTERRUPTED = "INTERRUPTED"  # Waits for a person.
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    LIMITED = "LIMITED"


class Channel(Enum):
    STDOUT = "STDOUT"
    STDERR = "STDERR"


@dataclass(frozen=True, slots=True)
class Started:
    model: str


@dataclass(frozen=True, slots=True)
class StepStarted:
    step: int


@dataclass(frozen=True, slots=True)
class Delta:
    text: str = ""
    thinking: str = ""


@dataclass(frozen=True, slots=True)
class CallWritten:
    """A piece of a call, as the model writes it. The proto has it within Delta."""

    index: int  # Of the step's calls, from 0.
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class StepRestarted:
    step: int


@dataclass(frozen=True, slots=True)
class ToolCalled:
    call: ToolCall


@dataclass(frozen=True, slots=True)
class ToolOutput:
    call_id: str
    channel: Channel
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolReturned:
    call_id: str
    content: str
    failed: bool
    duration_s: float
    remembered: bool = False


class Decision(Enum):
    APPROVED = "APPROVED"
    EDITED = "EDITED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequested:
    approval_id: UUID
    call_id: str
    call_hash: bytes
    reason: str
    expire_time_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalResolved:
    approval_id: UUID
    decision: Decision
    user_id: str  # Empty: nobody, the time was up.
    arguments_json: str = ""  # EDITED: those with which the call is made.


@dataclass(frozen=True, slots=True)
class StepFinished:
    step: int
    usage: Usage
    truncated: bool = False  # The model's answer, at a limit of tokens.


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    status: Status
    usage: Usage
    answer: str = ""
    reason: str = ""  # Of the service's ErrorReason, without its prefix.
    message: str = ""


Event = (
    Started
    | StepStarted
    | StepRestarted
    | Delta
    | CallWritten
    | ToolCalled
    | ToolOutput
    | ToolReturned
    | ApprovalRequested
    | ApprovalResolved
    | StepFinished
    | Finished
)


def joined(events: Iterable[Event]) -> list[Event]:
    """The same tale in fewer events: neighbours that append to the same text become one."""
    result: list[Event] = []
    for _, group in groupby(events, key=_appends_to):
        result.extend(_one(list(group)))
    return result


def _appends_to(event: Event) -> object:
    match event:
        case Delta():
            return Delta
        case CallWritten(index):
            return CallWritten, index
        case ToolOutput(call_id, channel):
            return call_id, channel
        case _:
            return event


def _one(group: list[Event]) -> list[Event]:
    match group:
        case [Delta(), Delta(), *_]:
            deltas = [event for event in group if isinstance(event, Delta)]
            return [Delta("".join(d.text for d in deltas), "".join(d.thinking for d in deltas))]
        case [CallWritten(index, name), CallWritten(), *_]:
            pieces = [event for event in group if isinstance(event, CallWritten)]
            return [CallWritten(index, name, "".join(piece.arguments_json for piece in pieces))]
        case [ToolOutput(call_id, channel), ToolOutput(), *_]:
            outputs = [event for event in group if isinstance(event, ToolOutput)]
            return [ToolOutput(call_id, channel, "".join(output.text for output in outputs))]
        case _:
            return group
