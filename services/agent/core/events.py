"""What is told of a run. The proto's RunEvent has the same shapes and says what each means."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import groupby

from services.agent.core.budget import Usage
from services.agent.core.conversation import ToolCall


class Status(Enum):
    """How far a run is. All but the first two are ends."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
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


@dataclass(frozen=True, slots=True)
class StepFinished:
    step: int
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    status: Status
    usage: Usage
    answer: str = ""
    reason: str = ""  # Of the service's ErrorReason, without its prefix.
    message: str = ""


Event = Started | StepStarted | Delta | ToolCalled | ToolOutput | ToolReturned | StepFinished | Finished


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
        case ToolOutput(call_id, channel):
            return call_id, channel
        case _:
            return event


def _one(group: list[Event]) -> list[Event]:
    match group:
        case [Delta(), Delta(), *_]:
            deltas = [event for event in group if isinstance(event, Delta)]
            return [Delta("".join(d.text for d in deltas), "".join(d.thinking for d in deltas))]
        case [ToolOutput(call_id, channel), ToolOutput(), *_]:
            outputs = [event for event in group if isinstance(event, ToolOutput)]
            return [ToolOutput(call_id, channel, "".join(output.text for output in outputs))]
        case _:
            return group
