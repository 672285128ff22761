"""What administrators do to people and tenants, in the audit trail.

An act is assured before it takes effect, so that none can happen unseen; what is refused, or fails after all, is told
as that.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from services.auth.core.people import Actor
from services.common.audit import Action, Happened, Outcome, Trail
from services.common.errors import Kind, MeshError

_DENIALS = {Kind.DENIED, Kind.MISSING, Kind.UNAUTHENTICATED}


class Change:
    """One act of an administrator."""

    def __init__(self, trail: Trail, event: Happened) -> None:
        self._trail, self.event = trail, event

    async def assure(self, **details: str) -> None:
        """To be awaited right before the act takes effect. Raises AuditUnavailable."""
        told = {**self.event.details, **details}
        await self._trail.assure(replace(self.event, outcome=Outcome.ALLOWED, details=told))


@contextmanager
def changing(
    trail: Trail, actor: Actor, change: str, changed: str, *, action: Action = Action.USER_CHANGED
) -> Iterator[Change]:
    """Something that `actor` wants to do; `changed` is what to, such as "user/user:4f2c"."""
    event = Happened(
        action=action,
        outcome=Outcome.FAILED,
        user_id=actor.user_id,
        organization_id=actor.organization_id,
        object=changed,
        details={"change": change},
    )
    try:
        yield Change(trail, event)
    except MeshError as error:
        outcome = Outcome.DENIED if error.kind in _DENIALS else Outcome.FAILED
        trail.note(replace(event, outcome=outcome, reason=error.reason))
        raise
