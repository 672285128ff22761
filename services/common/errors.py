"""Failures a caller is meant to see. Any other exception is a bug and reaches them as INTERNAL."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import ClassVar


class Kind(Enum):
    """What the caller may do about it; `grpc.errors` gives each its one status code."""

    INVALID = auto()  # Fix the request.
    UNAUTHENTICATED = auto()  # Say who you are.
    DENIED = auto()  # Ask somebody with more rights.
    MISSING = auto()
    PRECONDITION = auto()  # The state of the thing forbids it now.
    DUPLICATE = auto()  # The same identifier was used for something else.
    EXHAUSTED = auto()  # Wait: `retry_after_s` says how long.
    TIMED_OUT = auto()  # Nothing happened.
    ABORTED = auto()  # Something had happened and cannot be finished.
    UNAVAILABLE = auto()  # Try again.
    CANCELLED = auto()  # Somebody who may has ended it.
    UNIMPLEMENTED = auto()


class MeshError(Exception):
    """`reason` is API: UPPER_SNAKE, listed in the service's ErrorReason, never renamed."""

    kind: ClassVar[Kind]
    reason: ClassVar[str]
    message: ClassVar[str]  # Constant; what varies goes into `facts` (AIP-193).
    retry_after_s: float | None = None

    def __init__(self, *, retry_after_s: float | None = None, **facts: object) -> None:
        super().__init__(self.message)
        self.facts = {name: str(value) for name, value in facts.items()}
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule of a request. `field` is a path such as `messages[2].content`."""

    field: str
    description: str
    rule: str = ""


class InvalidRequest(MeshError):
    """Every rule that the request breaks, all at once."""

    kind, reason = Kind.INVALID, "INVALID_REQUEST"
    message = "the request is invalid"

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__()
        self.violations = tuple(violations)


class PromptBlocked(InvalidRequest):
    """What is asked has phrases that policy blocks (services/common/screening.py)."""

    reason = "PROMPT_BLOCKED"
    message = "the prompt has a phrase that policy blocks"


class TokenInvalid(MeshError):
    kind, reason = Kind.UNAUTHENTICATED, "TOKEN_INVALID"
    message = "the access token is missing or not valid here"


class TokenExpired(MeshError):
    kind, reason = Kind.UNAUTHENTICATED, "TOKEN_EXPIRED"
    message = "the access token has expired"


class RoleRequired(MeshError):
    kind, reason = Kind.DENIED, "ROLE_REQUIRED"
    message = "the method needs another role"


class ScopeRequired(MeshError):
    kind, reason = Kind.DENIED, "SCOPE_REQUIRED"
    message = "the method needs a scope that the access token does not hold"


class PeerNotAllowed(MeshError):
    """The service that calls, not the user for whom it does."""

    kind, reason = Kind.DENIED, "PEER_NOT_ALLOWED"
    message = "this service takes no such calls from the caller's service"


class AuthUnavailable(MeshError):
    kind, reason = Kind.UNAVAILABLE, "AUTH_UNAVAILABLE"
    message = "the access token cannot be verified just now"
    retry_after_s = 1.0


class AuditUnavailable(MeshError):
    kind, reason = Kind.UNAVAILABLE, "AUDIT_UNAVAILABLE"
    message = "this must not be done unrecorded, and cannot be recorded just now; nothing was done"
    retry_after_s = 1.0


class DeadlineRequired(MeshError):
    kind, reason = Kind.INVALID, "DEADLINE_REQUIRED"
    message = "the call has no deadline; set one"


class RequestsLimited(MeshError):
    """Said by the edge, on behalf of the service that it leads to."""

    kind, reason = Kind.EXHAUSTED, "RATE_LIMITED"
    message = "too many requests; wait before the next one"
    retry_after_s = 1.0


class NotServed(MeshError):
    kind, reason = Kind.UNIMPLEMENTED, "NOT_IMPLEMENTED"
    message = "this is not served by this version"


class StoreFailure(MeshError):
    """The store gave no answer. Trying again may help."""


class StoreUnavailable(StoreFailure):
    kind, reason = Kind.UNAVAILABLE, "STORE_UNAVAILABLE"
    message = "the store does not answer; nothing was changed"
    retry_after_s = 1.0


class StoreBusy(StoreFailure):
    kind, reason = Kind.EXHAUSTED, "STORE_BUSY"
    message = "every connection to the store is in use; nothing was changed"
    retry_after_s = 1.0
