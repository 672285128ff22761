"""The short token that services are shown in the place of an API key."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import jwt

from services.auth.core.api_keys import ApiKey
from services.auth.core.claims import LIFETIME_MAX_S, Claims, Descent, access_claims, period
from services.auth.core.identity import Identity
from services.auth.ports import Clock
from services.common.errors import AuthUnavailable, StoreFailure

LIFETIME_S = 60
# A run goes on with the token that it was started with. What ends the key ends that too, everywhere within a second.
LIFETIMES_S = {"agent": LIFETIME_MAX_S}
USED_S = 30.0  # Then a new one is signed, so that half of its life is left for whoever goes on with it.


class Signer(Protocol):
    """Raises StoreFailure while it has no key."""

    def sign(self, claims: Claims) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Swapped:
    """A token that stands for a key, ready to be sent, and what it says of itself."""

    answer: bytes = field(repr=False)
    used_until_s: float  # By the steady clock.
    token_id: str
    user_id: str
    client_id: str
    api_key_id: str | None
    issued_at_s: int
    key_id: str  # Of the key that signed it.
    session_id: str | None = None
    actor: str | None = None


class Swaps:
    """`passed` makes the answer that lets a request pass, with a token, to a service."""

    def __init__(
        self,
        signer: Signer,
        *,
        issuer: str,
        passed: Callable[[str, str], bytes],
        issuable_from_s: Callable[[str, str], float],
        clock: Clock = time,
    ) -> None:
        self._signer, self._issuer, self._passed = signer, issuer, passed
        self._issuable_from_s, self._clock = issuable_from_s, clock

    def swapped(self, key: ApiKey, identity: Identity, service: str, now_s: float) -> Swapped:
        """A token for that identity, which is what the key comes to at that service. Raises AuthUnavailable."""
        # A token tells whole seconds: it must not count among those that were revoked within this one.
        revoked_s = self._issuable_from_s(identity.user_id, identity.client_id)
        from_s = now_s if now_s // 1 > revoked_s else revoked_s // 1 + 1
        valid = period(from_s, min(LIFETIMES_S.get(service, LIFETIME_S), key.expires_at_s - now_s))
        token_id, descent = uuid.uuid4().hex, Descent(api_key_id=key.key_id)
        claims = access_claims(identity, valid, issuer=self._issuer, token_id=token_id, descent=descent)
        try:
            token = self._signer.sign(claims)
        except StoreFailure:
            raise AuthUnavailable from None
        return Swapped(
            answer=self._passed(token, service),
            used_until_s=self._clock.monotonic() + min(USED_S, (valid.expires_at_s - valid.issued_at_s) / 2),
            token_id=token_id,
            user_id=identity.user_id,
            client_id=identity.client_id,
            api_key_id=key.key_id,
            issued_at_s=valid.issued_at_s,
            key_id=str(jwt.get_unverified_header(token)["kid"]),
        )
