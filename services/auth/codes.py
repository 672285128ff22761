"""Authorization codes: given to a browser for its client, and changed for tokens once."""

import secrets
import time
from dataclasses import replace

from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oauth2.rfc7636.challenge import CODE_VERIFIER_PATTERN

from services.auth.core.clients import Client, Grant
from services.auth.core.codes import LIFETIME_S, AuthorizationCode, AuthorizationRequest, is_good
from services.auth.core.identity import Identity, lesser
from services.auth.core.refresh import Family, RefreshDigest
from services.auth.core.token_requests import CodeRedemption
from services.auth.errors import ClientNotAllowed, GrantInvalid
from services.auth.issuer import Issued
from services.auth.logins import Begun, Logins
from services.auth.ports_oauth import ClientStore, CodeStore, Redeemed, UsedBefore

CODE_BYTES = 32


class Codes:
    def __init__(
        self, *, store: CodeStore, people: ClientStore, logins: Logins, digest: RefreshDigest
    ) -> None:
        self._store, self._people, self._logins, self._digest = store, people, logins, digest

    async def given(self, wanted: AuthorizationRequest, client: Client, identity: Identity) -> str:
        """A code for what a person has allowed. Raises ClientNotAllowed."""
        if not client.serves(identity.organization_id):
            raise ClientNotAllowed
        code = secrets.token_urlsafe(CODE_BYTES)
        kept = AuthorizationCode(
            digest=self._digest.of(code.encode()),
            client_id=wanted.client_id,
            redirect_uri=wanted.redirect_uri,
            code_challenge=wanted.code_challenge,
            user_id=identity.user_id,
            scopes=wanted.scopes,
        )
        await self._store.add_code(kept, lifetime_s=LIFETIME_S)
        return code

    async def redeemed(self, asked: CodeRedemption, client: Client) -> Issued:
        """The tokens that a code stands for. Whatever comes of it, the code is used up: whoever presents it without
        its verifier does not get a second try. Presented again, it ends what it was changed for.

        Raises GrantInvalid, StoreFailure.
        """
        known_at_s = (
            time.time()
        )  # Before the code is used: who ended it later has ended what comes of it too.
        begun: list[Begun] = []
        challenge = _challenge(asked.verifier)

        def accept(code: AuthorizationCode, now_s: float) -> Family | None:
            if not is_good(
                code, client_id=client.client_id, redirect_uri=asked.redirect_uri, challenge=challenge
            ):
                return None
            begun[:] = [self._logins.make(code.user_id, client, code.scopes, client.role_max, now_s)]
            return begun[0].family

        match await self._store.redeem(self._digest.of(asked.code.encode()), accept):
            case None:
                raise GrantInvalid
            case UsedBefore(session_id):
                if session_id is not None:
                    await self._logins.end(session_id, reason="CODE_REUSED")
                raise GrantInvalid
            case Redeemed():
                return await first_tokens(
                    begun[0],
                    self._people,
                    self._logins,
                    client,
                    Grant.AUTHORIZATION_CODE,
                    known_at_s=known_at_s,
                )


async def first_tokens(
    begun: Begun,
    people: ClientStore,
    logins: Logins,
    client: Client,
    grant: Grant,
    *,
    known_at_s: float,
) -> Issued:
    """The first tokens of a session that a person began for a client; `known_at_s`: before it began.

    Raises GrantInvalid.
    """
    identity = await people.find_identity(begun.family.user_id)
    if identity is None:
        await logins.end(begun.family.session_id, user_id=begun.family.user_id, reason="USER_DISABLED")
        raise GrantInvalid
    return await logins.issue(
        begun,
        for_client(identity, client, begun.family.scopes),
        None,
        client=client,
        grant=grant.value,
        known_at_s=known_at_s,
    )


def for_client(identity: Identity, client: Client, scopes: frozenset[str]) -> Identity:
    """A person as one of their clients may be them."""
    role = lesser(identity.role, client.role_max)
    return replace(identity, role=role, client_id=client.client_id, scopes=scopes)


def _challenge(verifier: str) -> str:
    """Empty, and so good for no code, for what cannot be a verifier."""
    if not CODE_VERIFIER_PATTERN.fullmatch(verifier):
        return ""
    challenge: str = create_s256_code_challenge(verifier)
    return challenge
