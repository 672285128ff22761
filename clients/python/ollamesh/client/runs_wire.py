"""Runs between protobuf and Python values; see runs.py for what they mean."""

from datetime import datetime
from typing import TypedDict

from ollamesh.agent.v1 import agent_service_pb2, assistant_pb2
from ollamesh.agent.v1 import run_pb2 as pb
from ollamesh.agent.v1.error_reason_pb2 import ErrorReason
from ollamesh.client.runs import (
    CHANNELS,
    DECISIONS,
    EFFECTS,
    STATUSES,
    Approval,
    ApprovalRequested,
    ApprovalResolved,
    Config,
    Delta,
    Event,
    Finished,
    Run,
    Started,
    StepFinished,
    StepRestarted,
    StepStarted,
    Tool,
    ToolCalled,
    ToolCallPiece,
    ToolOutput,
    ToolReturned,
    Usage,
)
from ollamesh.client.values import duration, seconds, time


class _At(TypedDict):
    """What every event has."""

    sequence: int
    event_time: datetime | None


def config_of(config: Config) -> assistant_pb2.RunConfig:
    return assistant_pb2.RunConfig(
        model=config.model,
        system_prompt=config.system_prompt,
        tools=config.tools,
        first_tool=config.first_tool,
        temperature=config.temperature,
        seed=config.seed,
        limits=assistant_pb2.RunLimits(
            step_count=config.step_count_max,
            model_call_count=config.model_call_count_max,
            tool_call_count=config.tool_call_count_max,
            output_token_count_per_call=config.output_token_count_per_call_max,
            token_count=config.token_count_max,
            wall=duration(config.wall_max_s),
            approval_wait=duration(config.approval_wait_max_s),
        ),
        approval_tools=config.approval_tools,
        response_json_schema=config.response_json_schema,
    )


def run_of(run: pb.Run) -> Run:
    return Run(
        run_id=run.run_id,
        thread_id=run.thread_id,
        model=run.config.model,
        status=STATUSES.get(run.status, "unknown"),
        failure_reason=_reason(run.failure_reason),
        failure_message=run.failure_message,
        usage=_usage(run.usage),
        last_sequence=run.last_sequence,
        assistant_id=run.assistant_id,
        assistant_version=run.assistant_version,
        pending_approvals=tuple(map(_approval_of, run.pending_approvals)),
        is_batch=run.is_batch,
    )


def _approval_of(requested: pb.RunEvent.ApprovalRequested) -> Approval:
    return Approval(
        approval_id=requested.approval_id,
        tool_call_id=requested.tool_call_id,
        call_hash=requested.call_hash,
        reason=requested.reason,
        expire_time=time(requested.expire_time),
    )


def tool_of(tool: agent_service_pb2.Tool) -> Tool:
    return Tool(
        name=tool.name,
        description=tool.description,
        parameters_json_schema=tool.parameters_json_schema,
        effect=EFFECTS.get(tool.effect, "unknown"),
        needs_approval=tool.needs_approval,
        timeout_s=seconds(tool.timeout),
        is_confined=tool.is_confined,
        returns_untrusted=tool.returns_untrusted,
    )


def event_of(message: pb.RunEvent) -> Event | None:  # noqa: PLR0911 - One for each kind.
    """Translate an event; None for a kind that is newer than this client."""
    at = _At(sequence=message.sequence, event_time=time(message.event_time))
    match message.WhichOneof("event"):
        case "started":
            return Started(**at, model=message.started.model)
        case "step_started":
            return StepStarted(**at, step=message.step_started.step)
        case "step_restarted":
            return StepRestarted(**at, step=message.step_restarted.step)
        case "delta":
            return _delta(message.delta, at)
        case "step_finished":
            step = message.step_finished
            return StepFinished(**at, step=step.step, usage=_usage(step.usage), truncated=step.truncated)
        case "finished":
            finished = message.finished
            return Finished(
                **at,
                status=STATUSES.get(finished.status, "unknown"),
                answer=finished.answer,
                usage=_usage(finished.usage),
                failure_reason=_reason(finished.failure_reason),
                failure_message=finished.failure_message,
            )
        case "approval_requested" | "approval_resolved":
            return _approval_event(message, at)
        case _:
            return _tool_event(message, at)


def _delta(delta: pb.RunEvent.Delta, at: _At) -> Delta:
    piece = delta.tool_call
    return Delta(
        **at,
        text=delta.text,
        thinking=delta.thinking,
        tool_call=ToolCallPiece(
            index=piece.index, tool_name=piece.tool_name, arguments_json=piece.arguments_json
        )
        if delta.HasField("tool_call")
        else None,
    )


def _tool_event(message: pb.RunEvent, at: _At) -> Event | None:
    match message.WhichOneof("event"):
        case "tool_called":
            call = message.tool_called.call
            return ToolCalled(
                **at,
                tool_call_id=call.tool_call_id,
                tool_name=call.tool_name,
                arguments_json=call.arguments_json,
            )
        case "tool_output":
            output = message.tool_output
            return ToolOutput(
                **at,
                tool_call_id=output.tool_call_id,
                channel=CHANNELS.get(output.channel, "unknown"),
                text=output.text,
            )
        case "tool_returned":
            returned = message.tool_returned
            return ToolReturned(
                **at,
                tool_call_id=returned.tool_call_id,
                content=returned.content,
                failed=returned.failed,
                duration_s=seconds(returned.duration),
                remembered=returned.remembered,
            )
        case _:
            return None


def _approval_event(message: pb.RunEvent, at: _At) -> Event:
    if message.HasField("approval_resolved"):
        resolved = message.approval_resolved
        return ApprovalResolved(
            **at,
            approval_id=resolved.approval_id,
            decision=DECISIONS.get(resolved.decision, "unknown"),
            user_id=resolved.user_id,
            arguments_json=resolved.arguments_json,
        )
    requested = message.approval_requested
    return ApprovalRequested(
        **at,
        approval_id=requested.approval_id,
        tool_call_id=requested.tool_call_id,
        call_hash=requested.call_hash,
        reason=requested.reason,
        expire_time=time(requested.expire_time),
    )


def _usage(usage: pb.RunUsage) -> Usage:
    return Usage(
        step_count=usage.step_count,
        model_call_count=usage.model_call_count,
        tool_call_count=usage.tool_call_count,
        prompt_token_count=usage.prompt_token_count,
        output_token_count=usage.output_token_count,
        wall_s=seconds(usage.wall),
    )


def _reason(number: ErrorReason) -> str:
    """The reason's name without its prefix; its number if it is newer than this client."""
    if number == ErrorReason.ERROR_REASON_UNSPECIFIED:
        return ""
    named = number in ErrorReason.values()
    return ErrorReason.Name(number).removeprefix("ERROR_REASON_") if named else str(number)
