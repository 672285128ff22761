"""An execution in the sandbox as Python values: what it may use, and the events in which it is told.

The grammar is the proto's (ollamesh/sandbox/v1/execution.proto): Queued? Started (Stdout | Stderr | Result)*
Exited. What the program does wrong is the outcome in Exited, never an exception.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ollamesh.client.values import duration, seconds
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an execution may use. None is the service's default, which callers may lower."""

    wall_s: float | None = None
    memory_bytes: int | None = None
    output_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """Every jail is taken; `ahead_count` executions go first."""

    sequence: int
    ahead_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The program runs."""

    sequence: int
    execution_id: str
    engine: str


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
    """Something displayed, by MIME type, in each form it has."""

    sequence: int
    data: Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """The program has ended. `exit_code` means something only for the outcomes "ok" and "error"."""

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


Event = Queued | Started | Stdout | Stderr | Result | Exited


def spec_of(code: str, stdin: bytes, limits: Limits) -> pb.ExecutionSpec:
    return pb.ExecutionSpec(
        code=code,
        stdin=stdin,
        limits=pb.Limits(
            wall=duration(limits.wall_s),
            memory_bytes=limits.memory_bytes,
            output_bytes=limits.output_bytes,
        ),
    )


def event_of(message: pb.ExecutionEvent) -> Event | None:  # noqa: PLR0911 - One for each kind.
    """Translate an event; None for a kind that is newer than this client."""
    sequence = message.sequence
    match message.WhichOneof("event"):
        case "queued":
            return Queued(sequence=sequence, ahead_count=message.queued.ahead_count)
        case "started":
            started = message.started
            return Started(sequence=sequence, execution_id=started.execution_id, engine=started.engine)
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
    )
