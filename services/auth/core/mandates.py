"""Mandates: a service acts for a user beyond the life of the token that they called it with.

A mandate is 32 random bytes that only its holder has; kept is a keyed digest. It adds no rights: what `redeemed` returns
has at most the rights of the token that the mandate came of, of the user as they are now, and of what the holder may
call. Whoever is disabled, has logged out, or whose key was revoked, is nobody to act for any more.

Unlike token exchange, this is also for service accounts: the holder is a part of the mesh that the account has called,
not a stranger who shows its token.
"""

import hmac
import re
from dataclasses import dataclass, field, replace

from services.auth.core.exchange import Subject
from services.auth.core.identity import GOES_ON_TO, Identity, Role, lesser, service_user_id
from services.auth.errors import ExchangeRefused, ScopeDenied

LIFETIME_MAX_S = 86_400.0
COUNT_MAX = 2_000  # That work, for each user; the agent allows fewer unfinished runs.
SECRET_BYTES = 32
PREFIX = "omm_"  # For those who search logs and repositories for secrets.
_FORM = re.compile(r"omm_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mandate:
    """A mandate as it is kept."""

    digest: bytes = field(repr=False)
    holder: str  # The service that may redeem it.
    user_id: str
    client_id: str
    role_max: Role
    scopes: frozenset[str]
    session_id: str | None
    api_key_id: str | None

    @property
    def name(self) -> str:
        """By which the audit trail knows it. Nothing can be done with it."""
        return self.digest.hex()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the store says now of whom a mandate is for."""

    identity: Identity | None  # None: disabled, or gone.
    source_ended: bool  # The login or the key that it came of.


class MandateDigest:
    def __init__(self, secret_key: str) -> None:
        self._pepper = hmac.digest(secret_key.encode(), b"ollamesh mandate 1", "sha256")

    def of(self, text: str) -> bytes | None:
        """None for what cannot be one."""
        if _FORM.fullmatch(text) is None:
            return None
        return hmac.digest(self._pepper, text.encode(), "sha256")


def granted(subject: Subject, holder: str, scopes: frozenset[str], digest: bytes) -> Mandate:
    """The mandate that a service gets of its caller's token. Raises ExchangeRefused, ScopeDenied."""
    if subject.actor not in {None, service_user_id(holder)}:
        raise ExchangeRefused  # A chain would lose who was in between.
    identity = subject.identity
    if not scopes or not scopes <= identity.scopes & GOES_ON_TO.get(holder, frozenset()):
        raise ScopeDenied
    return Mandate(
        digest=digest,
        holder=holder,
        user_id=identity.user_id,
        client_id=identity.client_id,
        role_max=identity.role,
        scopes=scopes,
        session_id=subject.session_id,
        api_key_id=subject.api_key_id,
    )


def redeemed(mandate: Mandate, standing: Standing, holder: str) -> Identity | None:
    """Whom the holder acts for, as they are now; None: nobody, any more."""
    now = standing.identity
    if mandate.holder != holder or now is None or standing.source_ended:
        return None
    scopes = mandate.scopes & now.scopes
    if not scopes:
        return None
    return replace(now, role=lesser(mandate.role_max, now.role), client_id=mandate.client_id, scopes=scopes)
