"""Signs access tokens, and tells the trail of each."""

import time
import uuid
from dataclasses import dataclass, field, replace

import structlog

from services.auth.core.claims import Descent, access_claims, period
from services.auth.core.identity import Identity
from services.auth.errors import GrantInvalid
from services.auth.keyring import Keyring
from services.auth.revocations import Revocations
from services.common.audit import Action, Happened, Outcome, Trail

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A token that was signed just now, and the one that renews it, if there is one."""

    access_token: str = field(repr=False)
    identity: Identity
    lifetime_s: int
    expires_at_s: int
    refresh_token: str | None = field(repr=False, default=None)
    refresh_lifetime_s: float = 0.0

    def renewable(self, refresh_token: str, *, lifetime_s: float) -> "Issued":
        return replace(self, refresh_token=refresh_token, refresh_lifetime_s=lifetime_s)


class TokenIssuer:
    def __init__(self, keyring: Keyring, revocations: Revocations, trail: Trail, *, issuer: str) -> None:
        self._keyring, self._revocations = keyring, revocations
        self._trail, self._issuer = trail, issuer

    def has_lost(self, user_id: str, client_id: str, *, since_s: float) -> bool:
        """Whether that user, or that client, has lost rights or their password since then."""
        return self._revocations.denied.issuable_from_s(user_id, client_id) > since_s

    async def issue(
        self,
        identity: Identity,
        lifetime_s: float | None,
        *,
        grant: str,
        known_at_s: float,
        descent: Descent | None = None,
    ) -> Issued:
        """`known_at_s`: when the store was asked who this is and what they may do, or earlier.

        Raises GrantInvalid if that was lost meanwhile: what ended the tokens of before would not end this one, which is
        signed later. Raises StoreUnavailable while there is no key.
        """
        await self._revocations.settled(identity.user_id, identity.client_id)
        if self.has_lost(identity.user_id, identity.client_id, since_s=known_at_s):
            raise GrantInvalid
        descent = descent or Descent()
        valid = period(time.time(), lifetime_s)
        token_id = uuid.uuid4().hex
        claims = access_claims(identity, valid, issuer=self._issuer, token_id=token_id, descent=descent)
        token = self._keyring.sign(claims)
        log.info("token_issued", user_id=identity.user_id, role=identity.role.value, token_id=token_id)
        told = {
            "grant": grant,
            "client": identity.client_id,
            "session": descent.session_id,
            "actor": descent.actor,
        }
        self._trail.note(
            Happened(
                action=Action.TOKEN_ISSUED,
                outcome=Outcome.ALLOWED,
                user_id=identity.user_id,
                organization_id=identity.organization_id,
                object=f"token/{token_id}",
                details={name: value for name, value in told.items() if value},
            )
        )
        return Issued(
            access_token=token,
            identity=identity,
            lifetime_s=valid.expires_at_s - valid.issued_at_s,
            expires_at_s=valid.expires_at_s,
        )
