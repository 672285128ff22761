"""An agent's run as Python values: how it is to be made, and the numbered events in which it is told.

The grammar is the proto's (ollamesh/agent/v1/run.proto): Started Step* Finished, where a step is
StepStarted (Delta | StepRestarted)* ToolCalled* (ApprovalRequested ApprovalResolved | ToolOutput | ToolReturned)*
StepFinished. How the run ended is the status in Finished, never an exception.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ollamesh.agent.v1 import run_pb2 as pb

Status = Literal[
    "pending", "running", "interrupted", "succeeded", "failed", "cancelled", "limited", "unknown"
]
Channel = Literal["stdout", "stderr", "unknown"]
Decision = Literal["approved", "edited", "rejected", "expired", "unknown"]

STATUSES: Mapping[int, Status] = {
    pb.RUN_STATUS_PENDING: "pending",
    pb.RUN_STATUS_RUNNING: "running",
    pb.RUN_STATUS_INTERRUPTED: "interrupted",
    pb.RUN_STATUS_SUCCEEDED: "succeeded",
    pb.RUN_STATUS_FAILED: "failed",
    pb.RUN_STATUS_CANCELLED: "cancelled",
    pb.RUN_STATUS_LIMITED: "limited",
}
CHANNELS: Mapping[int, Channel] = {
    pb.OUTPUT_CHANNEL_STDOUT: "stdout",
    pb.OUTPUT_CHANNEL_STDERR: "stderr",
}
DECISIONS: Mapping[int, Decision] = {
    pb.APPROVAL_DECISION_APPROVED: "approved",
    pb.APPROVAL_DECISION_EDITED: "edited",
    pb.APPROVAL_DECISION_REJECTED: "rejected",
    pb.APPROVAL_DECISION_EXPIRED: "expired",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How a run is to be made. What is unset is the service's default.

    `tools` names what the model may call; `first_tool` forces its first call, for models too small to
    choose. A run that meets one of the limits ends as "limited".
    """

    model: str = ""
    system_prompt: str = ""
    tools: tuple[str, ...] = ()
    first_tool: str = ""
    temperature: float | None = None
    seed: int | None = None
    step_count_max: int | None = None
    output_token_count_per_call_max: int | None = None
    wall_max_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    step_count: int
    model_call_count: int
    tool_call_count: int
    prompt_token_count: int
    output_token_count: int
    wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Work on a thread, and how far it is. `failure_reason` is empty unless it failed."""

    run_id: str
    thread_id: str
    model: str
    status: Status
    failure_reason: str
    failure_message: str
    usage: Usage
    last_sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """Somebody works on it."""

    sequence: int
    event_time: datetime | None
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStarted:
    """The model is asked. Steps count from 1."""

    sequence: int
    event_time: datetime | None
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRestarted:
    """The model is asked anew, because a replica was lost: what it wrote in this step is void."""

    sequence: int
    event_time: datetime | None
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What the model has written since the event before."""

    sequence: int
    event_time: datetime | None
    text: str
    thinking: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCalled:
    """The model wants a call made. `arguments_json` is a JSON object, as JSON text."""

    sequence: int
    event_time: datetime | None
    tool_call_id: str
    tool_name: str
    arguments_json: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOutput:
    """What a tool has written so far, while it runs: append `text`."""

    sequence: int
    event_time: datetime | None
    tool_call_id: str
    channel: Channel
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolReturned:
    """A tool has answered; `content` is what the model reads. A failed tool does not end the run."""

    sequence: int
    event_time: datetime | None
    tool_call_id: str
    content: str
    failed: bool
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequested:
    """A call waits for a person. What is approved is exactly the call that `call_hash` names."""

    sequence: int
    event_time: datetime | None
    approval_id: str
    tool_call_id: str
    call_hash: bytes
    reason: str
    expire_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalResolved:
    """The person has decided, or time has."""

    sequence: int
    event_time: datetime | None
    approval_id: str
    decision: Decision
    user_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFinished:
    """The step is stored: an interrupted run goes on from here."""

    sequence: int
    event_time: datetime | None
    step: int
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The run has ended. `answer` is empty unless it succeeded, `failure_reason` unless it failed."""

    sequence: int
    event_time: datetime | None
    status: Status
    answer: str
    usage: Usage
    failure_reason: str
    failure_message: str


Event = (
    Started
    | StepStarted
    | StepRestarted
    | Delta
    | ToolCalled
    | ToolOutput
    | ToolReturned
    | ApprovalRequested
    | ApprovalResolved
    | StepFinished
    | Finished
)
