"""GetUsage: protobuf in, domain out, and back. Whose usage it is comes from the token alone."""

import datetime as dt
from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from ollamesh.inference.v1 import inference_service_pb2 as pb

from services.common.errors import InvalidRequest, Violation
from services.common.tokens import Caller, Role
from services.inference.core.accounting import Dimension, Line, Question, wrong_period

_DIMENSIONS = {
    pb.USAGE_DIMENSION_PROJECT: Dimension.PROJECT,
    pb.USAGE_DIMENSION_USER: Dimension.USER,
    pb.USAGE_DIMENSION_MODEL: Dimension.MODEL,
    pb.USAGE_DIMENSION_DAY: Dimension.DAY,
}


def question(request: pb.GetUsageRequest, caller: Caller, *, now: dt.datetime) -> Question:
    """An admin asks for the organisation, anybody else for themselves. Raises InvalidRequest."""
    start = _time(request.start_time, "start_time")
    end = _time(request.end_time, "end_time") if request.HasField("end_time") else now
    if broken := wrong_period(start, end):
        raise InvalidRequest(broken)
    return Question(
        organization_id=caller.organization_id,
        user_id=None if caller.role is Role.ADMIN else caller.user_id,
        start=start,
        end=end,
        dimensions=[_DIMENSIONS[dimension] for dimension in request.group_by],
    )


def response(lines: Iterable[Line]) -> pb.GetUsageResponse:
    return pb.GetUsageResponse(rows=map(_row, lines))


def _row(line: Line) -> pb.UsageRow:
    return pb.UsageRow(
        project=line.project or "",
        user_id=line.user or "",
        model=line.model or "",
        day=None if line.day is None else Timestamp(seconds=round(line.day.timestamp())),
        request_count=line.request_count,
        prompt_token_count=line.prompt_token_count,
        output_token_count=line.output_token_count,
        gpu_time=_duration(line.gpu_s),
        queue_time=_duration(line.queue_s),
        cached_count=line.cached_count,
        joined_count=line.joined_count,
        cancelled_count=line.cancelled_count,
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def _time(timestamp: Timestamp, field: str) -> dt.datetime:
    try:
        return timestamp.ToDatetime(tzinfo=dt.UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest([Violation(field, "is no time", "timestamp")]) from None
