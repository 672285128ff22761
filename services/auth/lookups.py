"""What a token means (RFC 7662), and how it is made useless (RFC 7009)."""

import jwt

from services.auth.core.clients import Client
from services.auth.core.refresh import PREFIX
from services.auth.ending import Revoker
from services.auth.founding import HOME
from services.auth.logins import Logins
from services.common.audit import Action, Happened, Outcome, Trail
from services.common.errors import TokenExpired, TokenInvalid
from services.common.grpc.caller import Verifier
from services.common.revoked import Kind
from services.common.tokens import Caller

INACTIVE: dict[str, object] = {"active": False}
_TOLD = (
    "iss",
    "aud",
    "sub",
    "iat",
    "nbf",
    "exp",
    "jti",
    "client_id",
    "scope",
    "role",
    "org",
    "project",
    "act",
)


class Lookups:
    def __init__(self, *, verifier: Verifier, logins: Logins, revoker: Revoker, trail: Trail) -> None:
        self._verifier, self._logins = verifier, logins
        self._revoker, self._trail = revoker, trail

    async def introspected(self, token: str, client: Client) -> dict[str, object]:
        """What a token says, to the client it belongs to and to the service it is for; to all others it does not
        exist.
        """
        if token.startswith(PREFIX):
            family = await self._logins.owner(token)
            if family is None or family.client_id != client.client_id:
                return INACTIVE
            scope = " ".join(sorted(family.scopes))
            return {
                "active": True,
                "client_id": family.client_id,
                "sub": family.user_id,
                "scope": scope,
                "exp": int(family.expires_at_s),
            }
        if (caller := await self._read(token)) is None:
            return INACTIVE
        claims = jwt.decode(caller.token, options={"verify_signature": False})
        is_for_it = client.resource_server in claims["aud"] and _watches(client, caller.organization_id)
        if caller.client_id != client.client_id and not is_for_it:
            return INACTIVE
        said = {name: claims[name] for name in _TOLD if name in claims}
        return {"active": True, "token_type": "Bearer", **said}

    async def revoked(self, token: str, client: Client | None) -> None:
        """Make a token useless, if it is the client's; None: whoever holds it may. One that is no good is none."""
        if token.startswith(PREFIX):
            family = await self._logins.belongs(token)
            if family is not None and _may(client, family.client_id):
                await self._logins.end(family.session_id, user_id=family.user_id, reason="REVOKED")
            return
        caller = await self._read(token)
        if caller is None or not _may(client, caller.client_id):
            return
        await self._revoker.revoke(Kind.TOKEN, caller.token_id, owner=caller.user_id)
        self._trail.note(
            Happened(
                action=Action.TOKEN_REVOKED,
                outcome=Outcome.ALLOWED,
                user_id=caller.user_id,
                organization_id=caller.organization_id,
                object=f"token/{caller.token_id}",
                reason="REVOKED",
            )
        )

    async def _read(self, token: str) -> Caller | None:
        try:
            return await self._verifier.verify_any(token)
        except (TokenInvalid, TokenExpired):
            return None


def _watches(client: Client, organization_id: str) -> bool:
    """A tenant can call a client of its own a service too; what comes to the real ones, only the operator sees."""
    return client.organization_id == HOME or client.serves(organization_id)


def _may(client: Client | None, client_id: str) -> bool:
    return client is None or client.client_id == client_id
