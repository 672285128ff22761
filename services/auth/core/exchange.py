"""A service acts for a user (RFC 8693): what its token may say.

Invariant: in every respect at most what the user's token says (role, services, life), and at most what the actor
itself may call. Who acts with a token cannot be changed: a chain would lose who was in between.
"""

from dataclasses import dataclass, replace

from services.auth.core.clients import ActsFor, Client, Grant
from services.auth.core.identity import Identity
from services.auth.errors import ClientNotAllowed, ExchangeRefused, ScopeDenied


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A user's token, verified."""

    identity: Identity
    actor: str | None
    session_id: str | None
    api_key_id: str | None
    expires_at_s: int


def exchanged(subject: Subject, actor: Client, scopes: frozenset[str]) -> Identity:
    """What the actor's token says; no scopes means all that both hold.

    Raises ClientNotAllowed, ExchangeRefused, ScopeDenied.
    """
    if Grant.TOKEN_EXCHANGE not in actor.grants or not _may_act(actor, subject.identity.organization_id):
        raise ClientNotAllowed
    is_person = subject.identity.user_id.startswith("user:")
    if not is_person or subject.actor not in {None, actor.acts_as}:
        raise ExchangeRefused
    held = subject.identity.scopes & actor.scopes
    wanted = scopes or held
    if not wanted or not wanted <= held:
        raise ScopeDenied
    return replace(subject.identity, scopes=wanted, client_id=actor.client_id)


def _may_act(actor: Client, organization_id: str) -> bool:
    match actor.acts_for:
        case ActsFor.NOBODY:
            return False
        case ActsFor.ORGANIZATION:
            return actor.serves(organization_id)
        case ActsFor.EVERYBODY:
            return True
