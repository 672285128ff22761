"""Domain types as messages, and messages as domain types."""

from typing import Literal, assert_never

from google.protobuf.duration_pb2 import Duration
from ollamesh.sandbox.v1 import execution_pb2 as pb

from services.common.errors import MeshError
from services.sandbox.core.lifecycle import Outcome
from services.sandbox.core.limits import Asked, LimitKind, Limits
from services.sandbox.execution import (
    Execution,
    ExecutionEvent,
    Exited,
    Queued,
    Showed,
    Started,
    Usage,
    Wrote,
)
from services.sandbox.ports import Stream

_OUTCOMES = {
    Outcome.OK: (pb.OUTCOME_OK, "the program ended"),
    Outcome.ERROR: (pb.OUTCOME_ERROR, "the program ended with an error"),
    Outcome.TIMEOUT: (pb.OUTCOME_TIMEOUT, "the program ran for too long and was ended"),
    Outcome.OOM: (pb.OUTCOME_OOM, "the program needed too much memory and was ended"),
    Outcome.OUTPUT_LIMIT: (pb.OUTCOME_OUTPUT_LIMIT, "the program wrote too much and was ended"),
    Outcome.SIGNALLED: (pb.OUTCOME_SIGNALLED, "a signal ended the program"),
    Outcome.CANCELLED: (pb.OUTCOME_CANCELLED, "the program was cancelled"),
}

_LIMIT_KINDS = {
    LimitKind.WALL: pb.LIMIT_KIND_WALL,
    LimitKind.MEMORY: pb.LIMIT_KIND_MEMORY,
    LimitKind.CPU: pb.LIMIT_KIND_CPU,
    LimitKind.PROCESSES: pb.LIMIT_KIND_PROCESSES,
    LimitKind.OUTPUT: pb.LIMIT_KIND_OUTPUT,
    LimitKind.FILES: pb.LIMIT_KIND_FILES,
}
SECONDS_MIN = 0.001  # A wish for less is one for as little as possible.


def asked_limits(limits: pb.Limits) -> Asked:
    """What is unset or 0 is not asked for."""
    return Asked(
        wall_s=_seconds(limits, "wall"),
        memory_bytes=limits.memory_bytes or None,
        cpu_s=_seconds(limits, "cpu"),
        process_count=limits.process_count or None,
        output_bytes=limits.output_bytes or None,
        files_bytes=limits.files_bytes or None,
    )


def event_message(event: ExecutionEvent, sequence: int, *, engine: str) -> pb.ExecutionEvent:
    message = pb.ExecutionEvent(sequence=sequence)
    match event:
        case Queued(ahead_count):
            message.queued.ahead_count = ahead_count
        case Started(execution_id, limits, begins_anew):
            started = message.started
            started.execution_id, started.engine = execution_id, engine
            started.session_restarted = begins_anew
            started.limits.CopyFrom(limits_message(limits))
        case Showed(data):
            message.result.data.update(data)
        case Wrote(stream, offset, data):
            output = message.stdout if stream is Stream.STDOUT else message.stderr
            output.offset, output.data = offset, data
        case Exited() as exited:
            message.exited.CopyFrom(_exited(exited))
        case _:
            assert_never(event)
    return message


def execution_message(execution: Execution) -> pb.Execution:
    """Raises the MeshError that it failed with, as its events do."""
    seen, where = execution.seen, execution.where
    message = pb.Execution(
        execution_id=execution.execution_id,
        state=_state(execution),
        stdout_bytes=seen[Stream.STDOUT],
        stderr_bytes=seen[Stream.STDERR],
        result_count=seen[Stream.RESULTS],
        profile=where.profile,
        engine=where.engine if execution.has_begun else "",
        session_id=where.session_id,
    )
    message.create_time.FromMicroseconds(int(execution.create_time_s * 1_000_000))
    if isinstance(execution.result, MeshError):
        raise execution.result
    if execution.result is not None:
        message.exited.CopyFrom(_exited(execution.result))
    return message


def _state(execution: Execution) -> pb.ExecutionState:
    if execution.result is not None:
        return pb.EXECUTION_STATE_EXITED
    return pb.EXECUTION_STATE_RUNNING if execution.has_begun else pb.EXECUTION_STATE_QUEUED


def _exited(exited: Exited) -> pb.ExecutionEvent.Exited:
    outcome, text = _OUTCOMES[exited.verdict.outcome]
    return pb.ExecutionEvent.Exited(
        outcome=outcome,
        exit_code=exited.verdict.exit_code,
        signal=exited.verdict.signal,
        message=text,
        usage=_usage(exited.usage),
        stdout_truncated=Stream.STDOUT in exited.truncated,
        stderr_truncated=Stream.STDERR in exited.truncated,
        results_truncated=Stream.RESULTS in exited.truncated,
        limits_reached=[_LIMIT_KINDS[kind] for kind in exited.limits_reached],
        session_restarted=exited.session.restarted,
        session_files_lost=exited.session.files_lost,
        session_ended=exited.session.ended,
    )


def _usage(usage: Usage) -> pb.Usage:
    return pb.Usage(
        queue=_duration(usage.queue_s),
        wall=_duration(usage.wall_s),
        cpu=_duration(usage.cpu_s),
        peak_memory_bytes=usage.peak_memory_bytes,
    )


def limits_message(limits: Limits) -> pb.Limits:
    return pb.Limits(
        wall=_duration(limits.wall_s),
        memory_bytes=limits.memory_bytes,
        cpu=None if limits.cpu_s is None else _duration(limits.cpu_s),
        process_count=limits.process_count,
        output_bytes=limits.output_bytes,
        files_bytes=limits.files_bytes,
    )


def _seconds(limits: pb.Limits, field: Literal["wall", "cpu"]) -> float | None:
    if not limits.HasField(field):
        return None
    duration = limits.wall if field == "wall" else limits.cpu
    return max(duration.seconds + duration.nanos / 1e9, SECONDS_MIN)


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMicroseconds(round(seconds * 1_000_000))
    return duration
