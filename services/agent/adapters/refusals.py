"""What another service said when it refused, as far as it may be repeated to people and models."""

from dataclasses import dataclass

import grpc.aio
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class Refusal:
    """`reason` is the service's own, or the name of the status where nothing else is known."""

    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.message} ({self.reason})"


def refusal_of(error: grpc.aio.AioRpcError | grpc.Call, *, domain: str) -> Refusal:
    """Texts are repeated only from `domain`, whose messages are constants; any other may say too much."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            status, info = Status.FromString(value), ErrorInfo()
            if any(detail.Unpack(info) for detail in status.details) and info.domain == domain:
                return Refusal(info.reason, status.message)
    return Refusal(error.code().name, "it cannot be reached or did not finish in time")
