"""An execution in the sandbox as Python values: what it may use, and the events in which it is told.

The grammar is the proto's (ollamesh/sandbox/v1/execution.proto): Queued? Started (Stdout | Stderr | Result)*
Exited; without Started, if it was ended while it waited. What the program does wrong is the outcome in Exited, never an
exception.
"""

from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypedDict

from ollamesh.client.values import duration, seconds, time
from ollamesh.sandbox.v1 import execution_pb2 as pb

Outcome = Literal["ok", "error", "timeout", "oom", "output_limit", "signalled", "cancelled", "unknown"]

OUTCOMES: Mapping[int, Outcome] = {
    pb.OUTCOME_OK: "ok",
    pb.OUTCOME_ERROR: "error",
    pb.OUTCOME_TIMEOUT: "timeout",
    pb.OUTCOME_OOM: "oom",
    pb.OUTCOME_OUTPUT_LIMIT: "output_limit",
    pb.OUTCOME_SIGNALLED: "signalled",
    pb.OUTCOME_CANCELLED: "cancelled",
}
Limit = Literal["wall", "memory", "cpu", "processes", "output", "files"]

LIMITS: Mapping[int, Limit] = {
    pb.LIMIT_KIND_WALL: "wall",
    pb.LIMIT_KIND_MEMORY: "memory",
    pb.LIMIT_KIND_CPU: "cpu",
    pb.LIMIT_KIND_PROCESSES: "processes",
    pb.LIMIT_KIND_OUTPUT: "output",
    pb.LIMIT_KIND_FILES: "files",
}

State = Literal["queued", "running", "exited", "unknown"]

STATES: Mapping[int, State] = {
    pb.EXECUTION_STATE_QUEUED: "queued",
    pb.EXECUTION_STATE_RUNNING: "running",
    pb.EXECUTION_STATE_EXITED: "exited",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an execution may use. None is the service's default, which callers may lower."""

    wall_s: float | None = None
    memory_bytes: int | None = None
    cpu_s: float | None = None  # Of all its processes together.
    process_count: int | None = None  # Processes and threads.
    output_bytes: int | None = None  # Of each output stream; what exceeds it is dropped.
    files_bytes: int | None = None  # Of all files together.


class Options(TypedDict, total=False):
    """Where and how a program runs. What is left out is the service's to choose."""

    limits: Limits | None
    profile: str  # What is installed, such as "python-data".
    engine: str  # What jails it, such as "gvisor".
    session_id: str  # A session, instead of a fresh jail.


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """Every jail is taken; `ahead_count` executions go first."""

    sequence: int
    ahead_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The program runs, within `limits`.

    With `session_restarted` the variables and files of its session were lost since the execution before.
    """

    sequence: int
    execution_id: str
    engine: str
    limits: Limits
    session_restarted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stdout:
    """Bytes of the standard output; a character may be split between two events."""

    sequence: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Stderr:
    """Bytes of the standard error; a character may be split between two events."""

    sequence: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The value of the last expression, or something displayed, by MIME type, in each form it has."""

    sequence: int
    data: Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """The program has ended. `exit_code` means something only for the outcomes "ok" and "error".

    `limits_reached` are those that it ran into; if one of them ended it, that is the first. With
    `session_restarted` the variables of its session are gone, with `session_files_lost` its files, too, and with
    `session_ended` there is no session any more.
    """

    sequence: int
    outcome: Outcome
    exit_code: int
    signal: int
    message: str
    queue_s: float
    wall_s: float
    cpu_s: float
    peak_memory_bytes: int
    stdout_truncated: bool
    stderr_truncated: bool
    results_truncated: bool
    limits_reached: tuple[Limit, ...]
    session_restarted: bool
    session_files_lost: bool
    session_ended: bool


Event = Queued | Started | Stdout | Stderr | Result | Exited


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """An execution and how far it is. `exited` is None until it has ended, `engine` empty until it has a jail."""

    execution_id: str
    state: State
    profile: str
    engine: str
    session_id: str
    create_time: datetime | None
    stdout_bytes: int
    stderr_bytes: int
    result_count: int
    exited: Exited | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """All that an execution has told."""

    stdout: bytes
    stderr: bytes
    results: tuple[Mapping[str, bytes], ...]
    exited: Exited


async def completed(events: AsyncIterable[Event]) -> Completed:
    """Read `events` to their end. What they hold is bounded by the limits of the execution."""
    stdout, stderr, results, exited = bytearray(), bytearray(), [], None
    async for event in events:
        match event:
            case Stdout():
                stdout += event.data
            case Stderr():
                stderr += event.data
            case Result():
                results.append(event.data)
            case Exited():
                exited = event
            case Queued() | Started():
                pass
    assert exited is not None, "a stream that succeeds ends with it"
    return Completed(stdout=bytes(stdout), stderr=bytes(stderr), results=tuple(results), exited=exited)


def spec_of(code: str, stdin: bytes, options: Options) -> pb.ExecutionSpec:
    limits = options.get("limits")
    return pb.ExecutionSpec(
        code=code,
        stdin=stdin,
        limits=None if limits is None else limits_message(limits),
        profile=options.get("profile", ""),
        engine=options.get("engine", ""),
        session_id=options.get("session_id", ""),
    )


def limits_message(limits: Limits) -> pb.Limits:
    return pb.Limits(
        wall=duration(limits.wall_s),
        memory_bytes=limits.memory_bytes,
        cpu=duration(limits.cpu_s),
        process_count=limits.process_count,
        output_bytes=limits.output_bytes,
        files_bytes=limits.files_bytes,
    )


def limits_of(message: pb.Limits) -> Limits:
    """What is unset, or 0, holds for none: None."""
    return Limits(
        wall_s=seconds(message.wall) or None,
        memory_bytes=message.memory_bytes or None,
        cpu_s=seconds(message.cpu) or None,
        process_count=message.process_count or None,
        output_bytes=message.output_bytes or None,
        files_bytes=message.files_bytes or None,
    )


def event_of(message: pb.ExecutionEvent) -> Event | None:  # noqa: PLR0911 - One for each kind.
    """Translate an event; None for a kind that is newer than this client."""
    sequence = message.sequence
    match message.WhichOneof("event"):
        case "queued":
            return Queued(sequence=sequence, ahead_count=message.queued.ahead_count)
        case "started":
            return _started(sequence, message.started)
        case "stdout":
            return Stdout(sequence=sequence, offset=message.stdout.offset, data=message.stdout.data)
        case "stderr":
            return Stderr(sequence=sequence, offset=message.stderr.offset, data=message.stderr.data)
        case "result":
            return Result(sequence=sequence, data=dict(message.result.data))
        case "exited":
            return _exited(sequence, message.exited)
        case _:
            return None


def execution_of(message: pb.Execution) -> Execution:
    return Execution(
        execution_id=message.execution_id,
        state=STATES.get(message.state, "unknown"),
        profile=message.profile,
        engine=message.engine,
        session_id=message.session_id,
        create_time=time(message.create_time),
        stdout_bytes=message.stdout_bytes,
        stderr_bytes=message.stderr_bytes,
        result_count=message.result_count,
        exited=_exited(0, message.exited) if message.HasField("exited") else None,
    )


def _started(sequence: int, started: pb.ExecutionEvent.Started) -> Started:
    return Started(
        sequence=sequence,
        execution_id=started.execution_id,
        engine=started.engine,
        limits=limits_of(started.limits),
        session_restarted=started.session_restarted,
    )


def _exited(sequence: int, exited: pb.ExecutionEvent.Exited) -> Exited:
    return Exited(
        sequence=sequence,
        outcome=OUTCOMES.get(exited.outcome, "unknown"),
        exit_code=exited.exit_code,
        signal=exited.signal,
        message=exited.message,
        queue_s=seconds(exited.usage.queue),
        wall_s=seconds(exited.usage.wall),
        cpu_s=seconds(exited.usage.cpu),
        peak_memory_bytes=exited.usage.peak_memory_bytes,
        stdout_truncated=exited.stdout_truncated,
        stderr_truncated=exited.stderr_truncated,
        results_truncated=exited.results_truncated,
        limits_reached=tuple(LIMITS[kind] for kind in exited.limits_reached if kind in LIMITS),
        session_restarted=exited.session_restarted,
        session_files_lost=exited.session_files_lost,
        session_ended=exited.session_ended,
    )
