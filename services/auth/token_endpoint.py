"""The token endpoint: which grant, whose, and what comes of it."""

from dataclasses import dataclass, field
from typing import assert_never

from services.auth.clients import Clients
from services.auth.codes import Codes
from services.auth.core.clients import Client, Grant
from services.auth.core.device import Reply
from services.auth.core.oauth import OAuthError
from services.auth.core.token_requests import (
    ClientCredentials,
    CodeRedemption,
    DevicePoll,
    Exchange,
    Refreshing,
    TokenRequest,
)
from services.auth.devices import Devices
from services.auth.errors import ClientNotAllowed, CredentialsInvalid, GrantInvalid
from services.auth.exchanging import Exchanges
from services.auth.grants import Grants
from services.auth.issuer import Issued
from services.auth.logins import Logins
from services.auth.telemetry import AuthMetrics

_SAID = {
    Reply.PENDING: "the user has not answered yet",
    Reply.SLOW_DOWN: "the client asks too often: from now on it must wait five seconds longer",
    Reply.DENIED: "the user has refused",
    Reply.EXPIRED: "the user has not answered in time",
    Reply.INVALID: "the device code is unknown or used",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowserSide:
    """What a browser can keep, and what it has kept: the refresh token that came in a cookie, if its page may use it."""

    may_keep: bool = False
    is_own: bool = False  # One of this site's own pages asks.
    refresh_token: str | None = field(repr=False, default=None)


class TokenEndpoint:
    def __init__(  # noqa: PLR0913 - By name; app.py hands them over.
        self,
        *,
        clients: Clients,
        grants: Grants,
        logins: Logins,
        codes: Codes,
        devices: Devices,
        exchanges: Exchanges,
        metrics: AuthMetrics,
    ) -> None:
        self._clients, self._grants, self._logins = clients, grants, logins
        self._codes, self._devices, self._exchanges = codes, devices, exchanges
        self._metrics = metrics

    async def answered(self, asked: TokenRequest, browser: BrowserSide) -> tuple[Issued, Client | None]:
        """Tokens, and the client that gets them.

        Raises OAuthError, MeshError, ScopeNotHeld.
        """
        match asked:
            case ClientCredentials(proof, scopes):
                if proof.secret is None:
                    raise CredentialsInvalid
                return await self._grants.client_credentials(
                    proof.client_id, proof.secret, scopes=scopes
                ), None
            case CodeRedemption(proof):
                client = await self._clients.authenticated(proof, Grant.AUTHORIZATION_CODE)
                _check_browser(client, browser)
                with self._metrics.grant("authorization_code"):
                    return await self._codes.redeemed(asked, client), client
            case Refreshing(proof, token, scopes):
                client = await self._clients.authenticated(proof, Grant.REFRESH_TOKEN)
                with self._metrics.grant("refresh_token"):
                    return await self._refreshed(client, token, browser.refresh_token, scopes), client
            case DevicePoll(proof, device_code):
                client = await self._clients.authenticated(proof, Grant.DEVICE_CODE)
                _check_browser(client, browser)
                return await self._polled(client, device_code), client
            case Exchange():
                return await self.exchanged(asked), None
            case _:
                assert_never(asked)

    async def exchanged(self, asked: Exchange, *, lifetime_s: float | None = None) -> Issued:
        """Raises CredentialsInvalid, ClientNotAllowed, ExchangeRefused, ScopeDenied."""
        actor = await self._clients.authenticated(asked.proof, Grant.TOKEN_EXCHANGE)
        if actor.is_public:
            raise ClientNotAllowed
        with self._metrics.grant("token_exchange"):
            return await self._exchanges.exchanged(
                actor, asked.subject_token, asked.scopes, lifetime_s=lifetime_s
            )

    async def _refreshed(
        self, client: Client, token: str | None, cookie: str | None, scopes: frozenset[str]
    ) -> Issued:
        # A browser's token comes in its cookie and nowhere else; another client's in the form and nowhere else.
        if client.in_browser and token is not None:
            raise OAuthError("invalid_request", "this client's refresh token is in a cookie, not in the form")
        presented = cookie if client.in_browser else token
        if presented is None:
            if client.in_browser:
                raise GrantInvalid
            raise OAuthError("invalid_request", "refresh_token is missing")
        return await self._logins.refreshed(presented, client=client, scopes=scopes)

    async def _polled(self, client: Client, device_code: str) -> Issued:
        found = await self._devices.polled(device_code, client)
        if isinstance(found, Issued):
            self._metrics.issued("device_code")
            return found
        raise OAuthError(found.value, _SAID[found])


def _check_browser(client: Client, browser: BrowserSide) -> None:
    """Before anything is used up. A foreign page could else log people in as somebody of its own."""
    if client.in_browser and not browser.may_keep:
        raise OAuthError("invalid_request", "a browser's client needs https, or a loopback address")
    if client.in_browser and not browser.is_own:
        raise OAuthError("invalid_request", "no page of this site asks")
