"""What a change of a person's rights does to what they are logged in with."""

from typing import Protocol

from services.common.revoked import Kind


class Revoker(Protocol):
    """What keeps the list of tokens that are dead before their time."""

    async def revoke(self, kind: Kind, id: str, *, owner: str = "") -> None:  # noqa: A002 - The list's own name.
        ...


class Renewals(Protocol):
    """What keeps the logins that can be renewed."""

    async def end_all(self, user_id: str) -> list[str]:
        """End them, and what such a login could still come of: codes, and devices that were let in."""
        ...


class RevokedSessions:
    """Implements people_ports.Sessions: every token of a user is dead that was issued until now."""

    def __init__(self, revoker: Revoker, renewals: Renewals) -> None:
        self._revoker, self._renewals = revoker, renewals

    async def end(self, organization_id: str, user_id: str) -> None:
        """On every replica and in every service within a second; ids are the same in no two organisations."""
        del organization_id
        await self._renewals.end_all(user_id)  # First: what is issued from here on descends from a new login.
        await self._revoker.revoke(Kind.USER, user_id)
        await self._renewals.end_all(user_id)  # What was begun meanwhile; from here on, it would not begin.
