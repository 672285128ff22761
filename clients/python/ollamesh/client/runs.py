"""An agent's run as Python values: how it is to be made, and the numbered events in which it is told.

started = await client.agent.start(thread_id, "Book a table", runs.Config(approval_tools=("mail",)))
async for event in client.agent.watch(started.run_id):
    match event:
        case runs.ApprovalRequested():
            await client.agent.approve(started.run_id, event)

The grammar is the proto's (ollamesh/agent/v1/run.proto): Started Step* Finished, where a step is
StepStarted (Delta | StepRestarted)* ToolCalled* (ApprovalRequested ApprovalResolved | ToolOutput | ToolReturned)*
StepFinished. How the run ended is the status in Finished, never an exception.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ollamesh.agent.v1 import run_pb2 as pb
from ollamesh.agent.v1.agent_service_pb2 import (
    TOOL_EFFECT_EXTERNAL,
    TOOL_EFFECT_IDEMPOTENT,
    TOOL_EFFECT_NONE,
    TOOL_EFFECT_STATE_CHANGING,
)

Status = Literal[
    "pending", "running", "interrupted", "succeeded", "failed", "cancelled", "limited", "unknown"
]
BusyPolicy = Literal["enqueue", "reject", "interrupt", "rollback"]
Channel = Literal["stdout", "stderr", "unknown"]
Effect = Literal["none", "idempotent", "state_changing", "external", "unknown"]
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
BUSY_POLICIES: Mapping[BusyPolicy, pb.BusyPolicy] = {
    "enqueue": pb.BUSY_POLICY_ENQUEUE,
    "reject": pb.BUSY_POLICY_REJECT,
    "interrupt": pb.BUSY_POLICY_INTERRUPT,
    "rollback": pb.BUSY_POLICY_ROLLBACK,
}
CHANNELS: Mapping[int, Channel] = {
    pb.OUTPUT_CHANNEL_STDOUT: "stdout",
    pb.OUTPUT_CHANNEL_STDERR: "stderr",
}
EFFECTS: Mapping[int, Effect] = {
    TOOL_EFFECT_NONE: "none",
    TOOL_EFFECT_IDEMPOTENT: "idempotent",
    TOOL_EFFECT_STATE_CHANGING: "state_changing",
    TOOL_EFFECT_EXTERNAL: "external",
}
DECISIONS: Mapping[int, Decision] = {
    pb.APPROVAL_DECISION_APPROVED: "approved",
    pb.APPROVAL_DECISION_EDITED: "edited",
    pb.APPROVAL_DECISION_REJECTED: "rejected",
    pb.APPROVAL_DECISION_EXPIRED: "expired",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How a run is to be made. What is unset is the assistant's value, or else the service's default.

    `tools` names what the model may call; `first_tool` forces its first call, for models too small to
    choose; calls of `approval_tools` wait for a person, each of them. `response_json_schema` is what the answer must
    keep. A run that meets one of the limits ends as "limited".
    """

    model: str = ""
    system_prompt: str = ""
    tools: tuple[str, ...] = ()
    first_tool: str = ""
    approval_tools: tuple[str, ...] = ()
    response_json_schema: str = ""
    temperature: float | None = None
    seed: int | None = None
    step_count_max: int | None = None
    model_call_count_max: int | None = None
    tool_call_count_max: int | None = None
    output_token_count_per_call_max: int | None = None
    token_count_max: int | None = None
    wall_max_s: float | None = None
    approval_wait_max_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    step_count: int
    model_call_count: int
    tool_call_count: int
    prompt_token_count: int
    output_token_count: int
    wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A call that waits for a person. What is approved is exactly the call that `call_hash` names."""

    approval_id: str
    tool_call_id: str
    call_hash: bytes
    reason: str
    expire_time: datetime | None


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
    assistant_id: str = ""
    assistant_version: int = 0
    pending_approvals: tuple[Approval, ...] = ()  # None unless it is "interrupted".
    is_batch: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """Something that a run may use. `effect` is what a call does to the world."""

    name: str
    description: str
    parameters_json_schema: str
    effect: Effect
    needs_approval: bool  # Each call waits for a person.
    timeout_s: float
    is_confined: bool  # What it changes stays within the thread's own sandbox.
    returns_untrusted: bool  # Anybody may have written what it returns.


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
class ToolCallPiece:
    """What has been written of a call: `tool_name` with the first piece, `arguments_json` to append."""

    index: int  # Which call of the step, from 0.
    tool_name: str
    arguments_json: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What the model has written since the event before. A call that it writes is told whole in ToolCalled."""

    sequence: int
    event_time: datetime | None
    text: str
    thinking: str
    tool_call: ToolCallPiece | None = None


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
    """A tool has answered; `content` is what the model reads. A failed tool does not end the run.

    `remembered`: it is the answer to an equal call before, and the call was not made again.
    """

    sequence: int
    event_time: datetime | None
    tool_call_id: str
    content: str
    failed: bool
    duration_s: float
    remembered: bool = False


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
    """The person has decided, or time has. `arguments_json` are those of the call if it was "edited"."""

    sequence: int
    event_time: datetime | None
    approval_id: str
    decision: Decision
    user_id: str
    arguments_json: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFinished:
    """The step is stored: an interrupted run goes on from here."""

    sequence: int
    event_time: datetime | None
    step: int
    usage: Usage
    truncated: bool = False  # The answer was cut off at its limit of tokens.


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
