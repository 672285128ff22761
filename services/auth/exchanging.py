"""Token exchange (RFC 8693): a service gets a token of its own with which it acts for a user."""

import time

from services.auth.core.claims import Descent
from services.auth.core.clients import Client, Grant
from services.auth.core.exchange import Subject, exchanged
from services.auth.core.identity import Identity, Role
from services.auth.errors import ExchangeRefused
from services.auth.issuer import Issued, TokenIssuer
from services.common.errors import TokenExpired, TokenInvalid
from services.common.grpc.caller import Verifier
from services.common.tokens import Caller


class Exchanges:
    def __init__(self, verifier: Verifier, issuer: TokenIssuer) -> None:
        self._verifier, self._issuer = verifier, issuer

    async def exchanged(
        self, actor: Client, subject_token: str, scopes: frozenset[str], *, lifetime_s: float | None = None
    ) -> Issued:
        """A token of an actor that has authenticated. Raises what `core.exchange` raises.

        What ends the user's login or API key ends it too. A proof of possession that the user's token asks for is not
        passed on: the key for it is the user's, and the actor has authenticated by its own.
        """
        known_at_s = time.time()
        try:
            caller = await self._verifier.verify_any(subject_token)
        except (TokenInvalid, TokenExpired):
            raise ExchangeRefused from None
        identity = exchanged(subject_of(caller), actor, scopes)
        left_s = caller.expires_at_s - time.time()
        if left_s < 1:  # Still good by the clocks' leeway, but nothing that lives a second can come of it.
            raise ExchangeRefused
        return await self._issuer.issue(
            identity,
            left_s if lifetime_s is None else min(left_s, lifetime_s),
            grant=Grant.TOKEN_EXCHANGE.value,
            known_at_s=known_at_s,
            descent=Descent(session_id=caller.session_id, api_key_id=caller.api_key_id, actor=actor.acts_as),
        )


def subject_of(caller: Caller) -> Subject:
    return Subject(
        identity=Identity(
            user_id=caller.user_id,
            role=Role(caller.role.value),
            organization_id=caller.organization_id,
            project_id=caller.project_id,
            client_id=caller.client_id,
            scopes=caller.scopes,
        ),
        actor=caller.actor,
        session_id=caller.session_id,
        api_key_id=caller.api_key_id,
        expires_at_s=caller.expires_at_s,
    )
