"""Who gets a token, and the rule that a token never says more than its owner may.

Invariant: what `lowered` and `narrowed` return has at most the rights of what they were given.
"""

import re
from dataclasses import dataclass, replace
from enum import Enum

from services.common.errors import RoleRequired


class Role(Enum):
    """The closed list of roles, as tokens spell them."""

    USER = "user"
    ADMIN = "admin"


class ScopeNotHeld(Exception):
    """Only OAuth clients name scopes, so only they are told, in OAuth's words."""


# A scope names a service, and a token is good at exactly the services that its scopes name.
SCOPES = frozenset({"auth", "agent", "inference", "sandbox"})
# Where a service calls others for its caller (decision 0005).
GOES_ON_TO = {"agent": frozenset({"inference", "sandbox"})}
_RANKS = (Role.USER, Role.ADMIN)
_USERNAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,127}")
_CLIENT_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,119}")  # With `service:` before it, still a name.


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a token says of its bearer."""

    user_id: str
    role: Role
    organization_id: str
    project_id: str
    client_id: str
    scopes: frozenset[str] = SCOPES


def service_user_id(client_id: str) -> str:
    """The user a service account is. No person's id can be one: theirs start with `user:`."""
    return f"service:{client_id}"


def lesser(one: Role, other: Role) -> Role:
    return min(one, other, key=_RANKS.index)


def lowered(identity: Identity, role: Role | None) -> Identity:
    """The identity with a lesser or equal role. Raises RoleRequired for a greater one."""
    if role is None:
        return identity
    if outranks(role, identity.role):
        raise RoleRequired(role=role.value)
    return replace(identity, role=role)


def outranks(role: Role, other: Role) -> bool:
    """Whether `role` may more than `other`."""
    return _RANKS.index(role) > _RANKS.index(other)


def narrowed(identity: Identity, scopes: frozenset[str]) -> Identity:
    """The identity with these scopes only; none means all it has. Raises ScopeNotHeld."""
    if not scopes:
        return identity
    if not scopes <= identity.scopes:
        raise ScopeNotHeld
    return replace(identity, scopes=scopes)


def is_username(name: str) -> bool:
    """Whether a user can have this name at all; others need not, and must not, reach the store."""
    return _USERNAME.fullmatch(name) is not None


def is_client_id(name: str) -> bool:
    return _CLIENT_ID.fullmatch(name) is not None
