"""What is told of runs, as watchers get it and as it is stored."""

from typing import assert_never

from ollamesh.agent.v1 import run_pb2 as pb
from ollamesh.agent.v1.thread_pb2 import ToolCall as ToolCallPb

from services.agent.core.budget import Usage
from services.agent.core.conversation import ToolCall
from services.agent.core.events import (
    Channel,
    Delta,
    Event,
    Finished,
    Started,
    StepFinished,
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
    match event:
        case Started(model):
            told.started.model = model
        case StepStarted(step):
            told.step_started.step = step
        case Delta(text, thinking):
            told.delta.CopyFrom(pb.RunEvent.Delta(text=text, thinking=thinking))
        case ToolCalled(call):
            told.tool_called.call.CopyFrom(call_to_proto(call))
        case ToolOutput(call_id, channel, text):
            told.tool_output.CopyFrom(
                pb.RunEvent.ToolOutput(
                    tool_call_id=call_id,
                    channel=f"OUTPUT_CHANNEL_{channel.value}",
                    text=text,
                )
            )
        case ToolReturned():
            told.tool_returned.CopyFrom(
                pb.RunEvent.ToolReturned(
                    tool_call_id=event.call_id,
                    content=event.content,
                    failed=event.failed,
                    duration=duration(event.duration_s),
                )
            )
        case StepFinished(step, usage):
            told.step_finished.CopyFrom(pb.RunEvent.StepFinished(step=step, usage=usage_to_proto(usage)))
        case Finished():
            told.finished.CopyFrom(finished_to_proto(event))
        case _:
            assert_never(event)
    return told


def event_from_proto(told: pb.RunEvent) -> tuple[float, Event]:
    """The event and its time."""
    return told.event_time.ToMicroseconds() / 1e6, _event(told)


def _event(told: pb.RunEvent) -> Event:  # noqa: PLR0911 - One for each kind of event.
    match told.WhichOneof("event"):
        case "started":
            return Started(told.started.model)
        case "step_started":
            return StepStarted(told.step_started.step)
        case "delta":
            return Delta(told.delta.text, told.delta.thinking)
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
            )
        case "step_finished":
            return StepFinished(told.step_finished.step, usage_from_proto(told.step_finished.usage))
        case "finished":
            return finished_from_proto(told.finished)
        case other:
            raise AssertionError(f"no version of this service stored {other}")


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
