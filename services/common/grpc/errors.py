"""The one place where failures become gRPC statuses."""

import asyncio
import math
from collections.abc import Callable
from typing import NoReturn

import grpc
import structlog
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from services.common.errors import InvalidRequest, Kind, MeshError, NotServed
from services.common.grpc.around import Around, Context, Rest
from services.common.tracing.current import note

log = structlog.get_logger(__name__)

DETAILS_KEY = "grpc-status-details-bin"
CODES = {
    Kind.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Kind.DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Kind.MISSING: grpc.StatusCode.NOT_FOUND,
    Kind.PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    Kind.DUPLICATE: grpc.StatusCode.ALREADY_EXISTS,
    Kind.EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Kind.TIMED_OUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    Kind.ABORTED: grpc.StatusCode.ABORTED,
    Kind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Kind.CANCELLED: grpc.StatusCode.CANCELLED,
    Kind.UNIMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
}


def errors(domain: str, told: Callable[[str, MeshError], None] = lambda _method, _error: None) -> Around:
    """Answer every failure inside with its status, reason and details; `domain` as in ErrorInfo.

    `told` is told of each that the caller was meant to see, with its method.
    """

    async def around(method: str, context: Context, rest: Rest) -> object:
        try:
            return await rest()
        except grpc.aio.AbortError:
            raise  # Already answered; gRPC asserts that this very object comes back.
        except MeshError as error:
            told(method, error)
            note(error.reason)
            await _abort(context, error, domain)
        except NotImplementedError:  # Raised by the generated base class of a servicer.
            await _abort(context, NotServed(), domain)
        except Exception:
            # Unmapped, gRPC would send the exception's text, secrets and all, to the caller.
            log.exception("bug", method=method)
            note("INTERNAL")
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")

    return around


async def _abort(context: Context, error: MeshError, domain: str) -> NoReturn:
    if context.time_remaining() == 0:
        # Its caller has given up, as this call is about to learn. gRPC cannot send the status any more, and would
        # lose what it had made of it (decision 0014).
        raise asyncio.CancelledError from error
    # Not `abort_with_status`: OpenTelemetry's wrapper sees only `abort`.
    details = ((DETAILS_KEY, status_of(error, domain).SerializeToString()), *_limits_of(error))
    await context.abort(CODES[error.kind], str(error), details)


def _limits_of(error: MeshError) -> tuple[tuple[str, str], ...]:
    """When to come again after one's share is spent, for whoever reads headers and no details; as the edge words it."""
    if error.kind is not Kind.EXHAUSTED or error.retry_after_s is None:
        return ()
    wait = str(max(1, math.ceil(error.retry_after_s)))
    if not {"quota", "limit"} <= error.facts.keys():
        return (("retry-after", wait),)
    return (
        ("retry-after", wait),
        ("x-ratelimit-limit", error.facts["limit"]),
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset", wait),
    )


def status_of(error: MeshError, domain: str) -> Status:
    status = Status(code=CODES[error.kind].value[0], message=str(error))
    status.details.add().Pack(ErrorInfo(reason=error.reason, domain=domain, metadata=error.facts))
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(round(error.retry_after_s * 1000))
        status.details.add().Pack(RetryInfo(retry_delay=delay))
    if isinstance(error, InvalidRequest):
        bad = BadRequest()
        for broken in error.violations:
            bad.field_violations.add(field=broken.field, description=broken.description, reason=broken.rule)
        status.details.add().Pack(bad)
    return status
