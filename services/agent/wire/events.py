"""What is told of runs, as watchers get it and as it is stored."""

from typing import assert_never
from uuid import UUID

from google.protobuf.message import Message as ProtoMessage
from ollamesh.agent.v1 import run_pb2 as pb
from ollamesh.agent.v1.thread_pb2 import ToolCall as ToolCallPb

from services.agent.core.budget import Usage
from services.agent.core.conversation import ToolCall
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
    StepFinished,
    StepRestarted,
    StepStarted,
    ToolCalled,
    ToolOutput,
    ToolReturned,
)
from services.agent.wire.values import (
    duration,
    reason_from_proto,
    reason_to_proto,
    seconds,
    status_from_proto,
    status_to_proto,
    timestamp_of_s,
)


def event_to_proto(event: Event, *, sequence: int, time_s: float) -> pb.RunEvent:
    told = pb.RunEvent(sequence=sequence, event_time=timestamp_of_s(time_s))
    field, message = _field(event)
    getattr(told, field).CopyFrom(message)
    return told


def _field(event: Event) -> tuple[str, ProtoMessage]:  # noqa: C901, PLR0911, PLR0912 - One for each kind of event.
    """The name of the event's field in RunEvent, and what it holds."""
    match event:
        case Started(model):
            return "started", pb.RunEvent.Started(model=model)
        case StepStarted(step):
            return "step_started", pb.RunEvent.StepStarted(step=step)
        case StepRestarted(step):
            return "step_restarted", pb.RunEvent.StepRestarted(step=step)
        case Delta(text, thinking):
            return "delta", pb.RunEvent.Delta(text=text, thinking=thinking)
        case CallWritten(index, name, arguments_json):
            piece = pb.RunEvent.ToolCallPiece(index=index, tool_name=name, arguments_json=arguments_json)
            return "delta", pb.RunEvent.Delta(tool_call=piece)
        case ToolCalled(call):
            return "tool_called", pb.RunEvent.ToolCalled(call=call_to_proto(call))
        case ToolOutput(call_id, channel, text):
            output = pb.RunEvent.ToolOutput(
                tool_call_id=call_id, channel=f"OUTPUT_CHANNEL_{channel.value}", text=text
            )
            return "tool_output", output
        case ToolReturned():
            return "tool_returned", _returned(event)
        case ApprovalRequested():
            return "approval_requested", requested_to_proto(event)
        case ApprovalResolved():
            return "approval_resolved", _resolved_to_proto(event)
        case StepFinished(step, usage, truncated):
            finished = pb.RunEvent.StepFinished(step=step, usage=usage_to_proto(usage), truncated=truncated)
            return "step_finished", finished
        case Finished():
            return "finished", finished_to_proto(event)
        case _:
            assert_never(event)


def _returned(event: ToolReturned) -> pb.RunEvent.ToolReturned:
    return pb.RunEvent.ToolReturned(
        tool_call_id=event.call_id,
        content=event.content,
        failed=event.failed,
        duration=duration(event.duration_s),
        remembered=event.remembered,
    )


def requested_to_proto(event: ApprovalRequested) -> pb.RunEvent.ApprovalRequested:
    return pb.RunEvent.ApprovalRequested(
        approval_id=str(event.approval_id),
        tool_call_id=event.call_id,
        call_hash=event.call_hash,
        reason=event.reason,
        expire_time=timestamp_of_s(event.expire_time_s),
    )


def event_from_proto(told: pb.RunEvent) -> tuple[float, Event]:
    """The event and its time."""
    return told.event_time.ToMicroseconds() / 1e6, _event(told)


def _event(told: pb.RunEvent) -> Event:  # noqa: C901, PLR0911 - One for each kind of event.
    match told.WhichOneof("event"):
        case "started":
            return Started(told.started.model)
        case "step_started":
            return StepStarted(told.step_started.step)
        case "step_restarted":
            return StepRestarted(told.step_restarted.step)
        case "delta":
            return _delta(told.delta)
        case "tool_called":
            return ToolCalled(call_from_proto(told.tool_called.call))
        case "tool_output":
            output = told.tool_output
            channel = pb.OutputChannel.Name(output.channel).removeprefix("OUTPUT_CHANNEL_")
            return ToolOutput(output.tool_call_id, Channel(channel), output.text)
        case "tool_returned":
            returned = told.tool_returned
            return ToolReturned(
                call_id=returned.tool_call_id,
                content=returned.content,
                failed=returned.failed,
                duration_s=seconds(returned.duration),
                remembered=returned.remembered,
            )
        case "approval_requested":
            return requested_from_proto(told.approval_requested)
        case "approval_resolved":
            return _resolved_from_proto(told.approval_resolved)
        case "step_finished":
            finished = told.step_finished
            return StepFinished(finished.step, usage_from_proto(finished.usage), truncated=finished.truncated)
        case "finished":
            return finished_from_proto(told.finished)
        case other:
            raise AssertionError(f"no version of this service stored {other}")


def _delta(delta: pb.RunEvent.Delta) -> Delta | CallWritten:
    if delta.HasField("tool_call"):
        piece = delta.tool_call
        return CallWritten(piece.index, piece.tool_name, piece.arguments_json)
    return Delta(delta.text, delta.thinking)


def requested_from_proto(requested: pb.RunEvent.ApprovalRequested) -> ApprovalRequested:
    return ApprovalRequested(
        approval_id=UUID(requested.approval_id),
        call_id=requested.tool_call_id,
        call_hash=requested.call_hash,
        reason=requested.reason,
        expire_time_s=requested.expire_time.ToMicroseconds() / 1e6,
    )


def _resolved_to_proto(resolved: ApprovalResolved) -> pb.RunEvent.ApprovalResolved:
    return pb.RunEvent.ApprovalResolved(
        approval_id=str(resolved.approval_id),
        decision=f"APPROVAL_DECISION_{resolved.decision.value}",
        user_id=resolved.user_id,
        arguments_json=resolved.arguments_json,
    )


def _resolved_from_proto(resolved: pb.RunEvent.ApprovalResolved) -> ApprovalResolved:
    decision = pb.ApprovalDecision.Name(resolved.decision).removeprefix("APPROVAL_DECISION_")
    return ApprovalResolved(
        approval_id=UUID(resolved.approval_id),
        decision=Decision(decision),
        user_id=resolved.user_id,
        arguments_json=resolved.arguments_json,
    )


def finished_to_proto(finished: Finished) -> pb.RunEvent.Finished:
    return pb.RunEvent.Finished(
        status=status_to_proto(finished.status),
        answer=finished.answer,
        usage=usage_to_proto(finished.usage),
        failure_reason=reason_to_proto(finished.reason),
        failure_message=finished.message,
    )


def finished_from_proto(finished: pb.RunEvent.Finished) -> Finished:
    return Finished(
        status=status_from_proto(finished.status),
        usage=usage_from_proto(finished.usage),
        answer=finished.answer,
        reason=reason_from_proto(finished.failure_reason),
        message=finished.failure_message,
    )


def usage_to_proto(usage: Usage) -> pb.RunUsage:
    return pb.RunUsage(
        step_count=usage.step_count,
        model_call_count=usage.model_call_count,
        tool_call_count=usage.tool_call_count,
        prompt_token_count=usage.prompt_token_count,
        output_token_count=usage.output_token_count,
        wall=duration(usage.wall_s),
    )


def usage_from_proto(usage: pb.RunUsage) -> Usage:
    return Usage(
        step_count=usage.step_count,
        model_call_count=usage.model_call_count,
        tool_call_count=usage.tool_call_count,
        prompt_token_count=usage.prompt_token_count,
        output_token_count=usage.output_token_count,
        wall_s=seconds(usage.wall),
    )


def call_to_proto(call: ToolCall) -> ToolCallPb:
    return ToolCallPb(tool_call_id=call.call_id, tool_name=call.name, arguments_json=call.arguments_json)


def call_from_proto(call: ToolCallPb) -> ToolCall:
    return ToolCall(call_id=call.tool_call_id, name=call.tool_name, arguments_json=call.arguments_json)
