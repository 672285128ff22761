"""What must not be forgotten, as the services tell it: see `AuditEvent` in the auth service's proto."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol


class Action(Enum):
    """By the names of `AuditAction`."""

    LOGIN = auto()
    TOKEN_ISSUED = auto()
    TOKEN_REVOKED = auto()
    ACCESS_DENIED = auto()
    API_KEY_CREATED = auto()
    API_KEY_USED = auto()
    API_KEY_REVOKED = auto()
    USER_CHANGED = auto()
    QUOTA_CHANGED = auto()
    SECRET_WRITTEN = auto()
    SECRET_READ = auto()
    SIGNING_KEY_ROTATED = auto()
    MODEL_CHANGED = auto()
    CODE_EXECUTED = auto()
    TOOL_APPROVED = auto()
    DATA_DELETED = auto()
    SESSION_CREATED = auto()  # Of the sandbox, like the next three.
    SESSION_ENDED = auto()
    FILE_WRITTEN = auto()
    FILE_READ = auto()
    MANDATE_CREATED = auto()
    MANDATE_ENDED = auto()
    EVENTS_LOST = auto()  # By a service that could keep them nowhere.


class Outcome(Enum):
    """By the names of `AuditOutcome`."""

    ALLOWED = auto()
    DENIED = auto()
    FAILED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """One event. No secret, prompt or code in any field."""

    action: Action
    outcome: Outcome
    user_id: str = ""
    organization_id: str = ""
    object: str = ""  # What it was done to, such as "api_key/4f2c".
    reason: str = ""  # Of a refusal.
    details: Mapping[str, str] = field(default_factory=dict)


class Trail(Protocol):
    """Where events go."""

    def note(self, happened: Happened) -> None:
        """Tell it, without waiting: for what was done anyway."""
        ...

    async def assure(self, happened: Happened) -> None:
        """Return once it cannot be lost: before an administrative act takes effect. Raises AuditUnavailable."""
        ...
