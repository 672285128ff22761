"""Mandates given, redeemed and ended: a service acts for a user who is not there any more (core/mandates.py)."""

import base64
import secrets
import time
from dataclasses import dataclass, field
from typing import Protocol

from services.auth.core.claims import Descent
from services.auth.core.identity import service_user_id
from services.auth.core.mandates import (
    COUNT_MAX,
    LIFETIME_MAX_S,
    PREFIX,
    SECRET_BYTES,
    Mandate,
    MandateDigest,
    Standing,
    granted,
    redeemed,
)
from services.auth.errors import GrantInvalid, TooManyMandates
from services.auth.exchanging import subject_of
from services.auth.issuer import Issued, TokenIssuer
from services.auth.telemetry import AuthMetrics, MandateMetrics
from services.common.audit import Action, Happened, Outcome, Trail
from services.common.errors import TokenInvalid
from services.common.revoked import Kind
from services.common.tokens import Caller

GRANT = "mandate"  # As the trail and the metrics call it.


class TooMany(Exception):
    """The user has as many mandates as they may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A mandate to be kept."""

    mandate: Mandate
    organization_id: str
    lifetime_s: float
    issued_at_s: int  # Of the token that it comes of.
    ended_by: dict[Kind, str]


@dataclass(frozen=True, slots=True)
class Kept:
    mandate: Mandate
    standing: Standing
    left_s: float


class MandateStore(Protocol):
    """Mandates that work. Every method raises StoreFailure when the store does not answer in time."""

    async def add(self, wanted: Wanted, *, count_max: int = COUNT_MAX) -> float | None:
        """Keep it, and say until when; None: what it comes of has ended meanwhile. Raises TooMany."""
        ...

    async def find(self, digest: bytes) -> Kept | None: ...

    async def end(self, digest: bytes, holder: str) -> tuple[Mandate, str] | None:
        """The mandate that was ended, and its user's organisation; None: there was none of this holder's."""
        ...


@dataclass(frozen=True, slots=True)
class Given:
    text: str = field(repr=False)
    expires_at_s: float


class Mandates:
    def __init__(
        self,
        *,
        store: MandateStore,
        digest: MandateDigest,
        issuer: TokenIssuer,
        trail: Trail,
        grants: AuthMetrics,
        metrics: MandateMetrics,
    ) -> None:
        self._store, self._digest, self._issuer, self._trail = store, digest, issuer, trail
        self._grants, self._metrics = grants, metrics

    async def create(
        self, caller: Caller, holder: str, scopes: frozenset[str], *, lifetime_s: float
    ) -> Given:
        """A mandate for the service that `caller` has called.

        Raises ExchangeRefused, ScopeDenied, TooManyMandates, TokenInvalid, StoreFailure.
        """
        text = PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(SECRET_BYTES)).decode().rstrip("=")
        digest = self._digest.of(text)
        assert digest is not None, "it was made to be one"
        mandate = granted(subject_of(caller), holder, scopes, digest)
        wanted = Wanted(
            mandate=mandate,
            organization_id=caller.organization_id,
            lifetime_s=min(lifetime_s, LIFETIME_MAX_S),
            issued_at_s=caller.issued_at_s,
            ended_by=_ended_by(mandate, caller),
        )
        try:
            expires_at_s = await self._store.add(wanted)
        except TooMany:
            raise TooManyMandates(count_max=COUNT_MAX) from None
        if expires_at_s is None:
            raise TokenInvalid
        self._metrics.happened("created")
        details = {"holder": holder, "scopes": " ".join(sorted(scopes))}
        self._note(Action.MANDATE_CREATED, mandate, caller.organization_id, **details)
        return Given(text, expires_at_s)

    async def redeem(self, text: str, holder: str) -> Issued:
        """A token with which the holder acts for the user as they are now. Raises GrantInvalid, StoreFailure."""
        with self._grants.grant(GRANT):
            known_at_s = time.time()
            digest = self._digest.of(text)
            kept = await self._store.find(digest) if digest else None
            identity = redeemed(kept.mandate, kept.standing, holder) if kept else None
            if kept is None or identity is None:
                raise GrantInvalid
            return await self._issuer.issue(
                identity,
                kept.left_s,
                grant=GRANT,
                known_at_s=known_at_s,
                descent=Descent(
                    session_id=kept.mandate.session_id,
                    api_key_id=kept.mandate.api_key_id,
                    actor=service_user_id(holder),
                ),
            )

    async def end(self, text: str, holder: str) -> None:
        """It gives no more tokens. Idempotent. Raises StoreFailure."""
        digest = self._digest.of(text)
        ended = await self._store.end(digest, holder) if digest else None
        if ended is None:
            return
        mandate, organization_id = ended
        self._metrics.happened("ended")
        self._note(Action.MANDATE_ENDED, mandate, organization_id, holder=holder)

    def _note(self, action: Action, mandate: Mandate, organization_id: str, **details: str) -> None:
        self._trail.note(
            Happened(
                action=action,
                outcome=Outcome.ALLOWED,
                user_id=mandate.user_id,
                organization_id=organization_id,
                object=f"mandate/{mandate.name}",
                details=details,
            )
        )


def _ended_by(mandate: Mandate, caller: Caller) -> dict[Kind, str]:
    """The revocations that end a mandate, which came of its caller's token.

    A user's rights may change while their API keys go on; so do mandates of those.
    """
    ids = {
        Kind.TOKEN: caller.token_id,
        Kind.SIGNING_KEY: caller.key_id,
        Kind.CLIENT: mandate.client_id,
        Kind.SESSION: mandate.session_id,
        Kind.API_KEY: mandate.api_key_id,
        Kind.USER: None if mandate.api_key_id else mandate.user_id,
    }
    return {kind: name for kind, name in ids.items() if name}
