"""What a failed call raises: one exception that carries everything the service said."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

DETAILS_KEY = "grpc-status-details-bin"
REQUEST_ID_KEY = "x-request-id"


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule of a request. `field` is a path such as `messages[2].content`."""

    field: str
    description: str
    rule: str = ""


@dataclass(eq=False, kw_only=True)
class CallError(Exception):
    """A call failed. Branch on `reason` where there is one, else on `code`; show `message` to people.

    `reason` is a value of the service's ErrorReason enum without its prefix, such as `MODEL_NOT_FOUND`,
    and `domain` the service that gave it, such as `inference.ollamesh`. Both are empty when no service
    answered: the mesh was not reached, or something on the way refused.
    """

    code: grpc.StatusCode
    message: str
    reason: str = ""
    domain: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_after_s: float | None = None
    violations: tuple[Violation, ...] = ()
    request_id: str = (
        ""  # What the edge calls this call, in its log and in traces; empty if it was not reached.
    )

    def __str__(self) -> str:
        facts = ", ".join(f"{name}={value}" for name, value in sorted(self.metadata.items()))
        broken = "; ".join(f"{violation.field}: {violation.description}" for violation in self.violations)
        return "".join(
            (
                f"{self.reason or self.code.name}: {self.message}",
                f" ({facts})" if facts else "",
                f" [{broken}]" if broken else "",
            )
        )

    @property
    def is_unreachable(self) -> bool:
        """Whether no service took the call: the mesh is down, or nobody answered in time."""
        return not self.reason and self.code in {
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        }

    @property
    def is_connection_lost(self) -> bool:
        """Whether another try may find a server. A proxy that lost its server mid-stream says INTERNAL."""
        reset = not self.reason and "RST_STREAM" in self.message
        return self.code is grpc.StatusCode.UNAVAILABLE or (self.code is grpc.StatusCode.INTERNAL and reset)


def error_of(failure: grpc.aio.AioRpcError) -> CallError:
    """Translate what gRPC raised, with the details that it leaves packed."""
    error = CallError(code=failure.code(), message=failure.details() or "", request_id=_request_id(failure))
    explain(error, _status(failure))
    return error


def explain(error: CallError, status: Status) -> None:
    """Add to a failure what its details say."""
    for detail in status.details:
        info, retry, bad = ErrorInfo(), RetryInfo(), BadRequest()
        if detail.Unpack(info):
            error.reason, error.domain, error.metadata = info.reason, info.domain, dict(info.metadata)
        elif detail.Unpack(retry):
            error.retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
        elif detail.Unpack(bad):
            error.violations = tuple(
                Violation(broken.field, broken.description, broken.reason) for broken in bad.field_violations
            )


def _request_id(failure: grpc.aio.AioRpcError) -> str:
    # An answer that is a failure and nothing else has no initial metadata.
    for metadata in (failure.initial_metadata(), failure.trailing_metadata()):
        if isinstance(found := (metadata or grpc.aio.Metadata()).get(REQUEST_ID_KEY), str):
            return found
    return ""


def _status(failure: grpc.aio.AioRpcError) -> Status:
    packed = (failure.trailing_metadata() or grpc.aio.Metadata()).get(DETAILS_KEY)
    try:
        return Status.FromString(packed) if isinstance(packed, bytes) else Status()
    except DecodeError:  # Not from a service of ours; the code and the message still hold.
        return Status()
