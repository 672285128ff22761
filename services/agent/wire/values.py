"""Times, durations, names and statuses. Values of enums go to protobuf by their names."""

from datetime import datetime, timedelta
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from ollamesh.agent.v1 import error_reason_pb2, run_pb2

from services.agent.core.events import Status
from services.agent.core.ids import AssistantId, RunId, ThreadId
from services.agent.errors import AssistantNotFound, RunNotFound, ThreadNotFound


def thread_id(text: str) -> ThreadId:
    """Raises ThreadNotFound for what cannot name a thread."""
    if (value := _uuid(text)) is None:
        raise ThreadNotFound
    return ThreadId(value)


def run_id(text: str) -> RunId:
    """Raises RunNotFound for what cannot name a run."""
    if (value := _uuid(text)) is None:
        raise RunNotFound
    return RunId(value)


def assistant_id(text: str) -> AssistantId:
    """Raises AssistantNotFound for what cannot name an assistant."""
    if (value := _uuid(text)) is None:
        raise AssistantNotFound
    return AssistantId(value)


def timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    result = Timestamp()
    result.FromDatetime(time)
    return result


def timestamp_of_s(time_s: float) -> Timestamp:
    result = Timestamp()
    result.FromMicroseconds(round(time_s * 1e6))
    return result


def duration(value_s: float) -> Duration:
    result = Duration()
    result.FromTimedelta(timedelta(seconds=value_s))
    return result


def seconds(value: Duration) -> float:
    return value.ToTimedelta().total_seconds()


def status_to_proto(status: Status) -> str:
    return f"RUN_STATUS_{status.value}"


def status_from_proto(status: run_pb2.RunStatus) -> Status:
    return Status(run_pb2.RunStatus.Name(status).removeprefix("RUN_STATUS_"))


def reason_to_proto(reason: str) -> str:
    """Of an empty reason: unspecified."""
    return f"ERROR_REASON_{reason or 'UNSPECIFIED'}"


def reason_from_proto(reason: error_reason_pb2.ErrorReason) -> str:
    return error_reason_pb2.ErrorReason.Name(reason).removeprefix("ERROR_REASON_") if reason else ""


def _uuid(text: str) -> UUID | None:
    """Of the one way in which we write it."""
    try:
        value = UUID(text)
    except ValueError:
        return None
    return value if str(value) == text else None
