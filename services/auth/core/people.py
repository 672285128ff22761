"""Who may change whom, and the names of what is made.

Invariants: nobody gives a role above their own; an organisation that has an admin who may log in keeps one; whoever
acts, acts inside their own organisation, but for the admins of the founding one, who make the others.
"""

from dataclasses import dataclass
from typing import NewType

from services.auth.core.identity import Role, outranks
from services.common.errors import RoleRequired
from services.common.policy import FOUNDING_ORGANIZATION

UserId = NewType("UserId", str)
FIRST_PROJECT = "default"  # Of every organisation.


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Whoever asks for a change, from their verified token."""

    user_id: str
    role: Role
    organization_id: str
    project_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request that its caller has named, so that it is done once."""

    request_id: str
    body_digest: bytes


def check_grants(actor: Actor, role: Role) -> None:
    """Raise RoleRequired if `role` is above the actor's own."""
    if outranks(role, actor.role):
        raise RoleRequired(role=role.value)


def check_founds(actor: Actor) -> None:
    """Raise RoleRequired if the actor may not make and see organisations."""
    if actor.role is not Role.ADMIN or actor.organization_id != FOUNDING_ORGANIZATION:
        raise RoleRequired(role=Role.ADMIN.value, organization=FOUNDING_ORGANIZATION)


def check_resets(actor: Actor) -> None:
    """Raise RoleRequired if the actor may not set others' passwords."""
    if actor.role is not Role.ADMIN:
        raise RoleRequired(role=Role.ADMIN.value)


def new_user_id(unique: str) -> UserId:
    """The id of a person who is new. It says nothing of them, and is never used again."""
    return UserId(f"user:{unique}")
