"""Questions to people about calls: what exactly was asked, and what a decision is good for.

A decision holds for one question of one run, and for the call that the question was about: tool and arguments, by their
hash. It is given once. Given again it is the same answer; another one comes too late, and so does one after its time.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from services.agent.core.conversation import ToolCall
from services.agent.core.events import ApprovalRequested, ApprovalResolved, Decision, Event, ToolCalled
from services.agent.errors import ApprovalMismatch, ApprovalNotFound

EXPIRED_TEXT = "Nobody approved the call in time, so it was not made. Do not repeat it."
REJECTED_TEXT = "A person rejected the call, so it was not made. Do not repeat it."


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What became of a question."""

    decision: Decision
    user_id: str = ""  # Who decided; empty: nobody, the time was up.
    arguments_json: str = ""  # EDITED: those of the call that is made.
    reason: str = ""  # REJECTED: for the model.


EXPIRED = Decided(decision=Decision.EXPIRED)


def call_hash(tool_name: str, arguments: Mapping[str, object]) -> bytes:
    """SHA-256 of the call in its one form: keys sorted, no spaces, everything beyond ASCII escaped."""
    whole = {"arguments": arguments, "tool": tool_name}
    return hashlib.sha256(json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()).digest()


def hash_of(call: ToolCall) -> bytes:
    """Likewise, of a call as it was told."""
    return call_hash(call.name, json.loads(call.arguments_json))


def asked_in(events: Iterable[Event], approval_id: UUID) -> tuple[ApprovalRequested, ToolCall]:
    """The question of that name and the call that it is about, among what was told of a run.

    Raises ApprovalNotFound.
    """
    calls: dict[str, ToolCall] = {}
    for event in events:
        match event:
            case ToolCalled(call):
                calls[call.call_id] = call
            case ApprovalRequested() if event.approval_id == approval_id and event.call_id in calls:
                return event, calls[event.call_id]
            case _:
                pass
    raise ApprovalNotFound


def check_hash(approved_hash: bytes, question: ApprovalRequested, call: ToolCall) -> None:
    """Raise ApprovalMismatch unless what is decided is what was asked, and what was asked is what would be called."""
    if {approved_hash, question.call_hash} != {hash_of(call)}:
        raise ApprovalMismatch


def is_too_late(question: ApprovalRequested, *, now_s: float) -> bool:
    """Whether the question has lapsed."""
    return now_s >= question.expire_time_s


def arguments_to_call_with(call: ToolCall, decided: Decided) -> Mapping[str, object] | None:
    """What the tool is to be given; None: it is not called."""
    match decided.decision:
        case Decision.APPROVED:
            text = call.arguments_json
        case Decision.EDITED:
            text = decided.arguments_json
        case Decision.REJECTED | Decision.EXPIRED:
            return None
    arguments: Mapping[str, object] = json.loads(text)
    return arguments


def told_to_model(decided: Decided) -> str:
    """What the model reads of a decision, before what the tool returned if it was called. Of a plain yes, nothing."""
    match decided.decision:
        case Decision.APPROVED:
            return ""
        case Decision.EDITED:
            return (
                f"A person changed the arguments to {decided.arguments_json}. With these the call was made.\n"
            )
        case Decision.REJECTED:
            return f"{REJECTED_TEXT} The person says: {decided.reason}" if decided.reason else REJECTED_TEXT
        case Decision.EXPIRED:
            return EXPIRED_TEXT


def resolved(question: ApprovalRequested, decided: Decided) -> ApprovalResolved:
    """As it is told to watchers."""
    return ApprovalResolved(
        approval_id=question.approval_id,
        decision=decided.decision,
        user_id=decided.user_id,
        arguments_json=decided.arguments_json,
    )
