"""Sign-in with an OpenID provider: sent there, come back, and be somebody here.

    browser ──▶ begin: state, nonce, PKCE ──▶ provider ──▶ browser comes back with code and state
    finish: code ──▶ provider's token endpoint ──▶ id_token ──▶ core/federation.py ──▶ a user of ours

Nothing is remembered between the two: see `secrets_of`. The provider being away ends this way in and no other.
"""

import secrets
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlencode, urlsplit

from services.auth.core.federation import Claims, Known, Provider, known, secrets_of
from services.auth.core.identity import Identity
from services.auth.errors import FederationRefused
from services.auth.federation_config import FederationConfig
from services.auth.people_ports import Sessions
from services.common.audit import Action, Happened, Outcome, Trail
from services.common.errors import MeshError


@dataclass(frozen=True, slots=True)
class Joined:
    """A user whom the provider knows, and whether their rights became less."""

    identity: Identity
    lowered: bool


class Endpoints(Protocol):
    """What a provider says of itself, as far as we need it."""

    @property
    def authorization_endpoint(self) -> str: ...
    @property
    def says_who_answers(self) -> bool:
        """Whether its answers name it (RFC 9207), and so must."""
        ...


class OpenIdProvider(Protocol):
    """Every method raises ProviderUnavailable when it does not answer as it should."""

    async def endpoints(self) -> Endpoints: ...

    async def id_token(self, code: str, *, verifier: str) -> Claims:
        """The claims of a token with a good signature, for a code. Raises FederationRefused."""
        ...


class FederatedUsers(Protocol):
    async def join(self, person: Known, provider: Provider, *, new_name: str) -> Joined | None:
        """The user who is that person, made if they are new, as they are to be now; None if they are disabled."""
        ...


class Federation:
    def __init__(
        self,
        *,
        config: FederationConfig,
        secret_key: str,
        provider: OpenIdProvider,
        users: FederatedUsers,
        sessions: Sessions,
        trail: Trail,
    ) -> None:
        self._config, self._secret_key, self._provider = config, secret_key, provider
        self._users, self._sessions, self._trail = users, sessions, trail

    @property
    def title(self) -> str:
        return self._config.title

    @property
    def place(self) -> str:
        """The provider's origin, for a page whose form may lead there."""
        parts = urlsplit(self._config.provider.issuer)
        return f"{parts.scheme}://{parts.netloc}"

    def attempt(self) -> str:
        """What names one sign-in, to be kept in its `state`."""
        return secrets.token_urlsafe(16)

    async def begin(self, state: str, *, browser: str, attempt: str) -> str:
        """Where to send the browser, which keeps `browser` in a cookie. Raises ProviderUnavailable."""
        endpoint = (await self._provider.endpoints()).authorization_endpoint
        ours = secrets_of(self._secret_key, browser=browser, attempt=attempt)
        asked = {
            "response_type": "code",
            "client_id": self._config.provider.client_id,
            "redirect_uri": self._config.redirect_uri,
            "scope": self._config.scopes,
            "state": state,
            "nonce": ours.nonce,
            "code_challenge": ours.challenge,
            "code_challenge_method": "S256",
        }
        return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(asked)}"

    async def finish(self, answer: Mapping[str, str], *, browser: str, attempt: str) -> Identity:
        """Who came back. `answer` is the query; its `state` has been checked. Raises FederationRefused,
        ProviderUnavailable, StoreFailure.
        """
        try:
            person = await self._person(answer, browser=browser, attempt=attempt)
            joined = await self._users.join(
                person, self._config.provider, new_name=f"oidc-{uuid.uuid4().hex}"
            )
            if joined is None:
                raise FederationRefused
        except MeshError as error:
            self._trail.note(Happened(action=Action.LOGIN, outcome=Outcome.DENIED, reason=error.reason))
            raise
        identity = joined.identity
        if joined.lowered:
            await self._sessions.end(identity.organization_id, identity.user_id)
        self._trail.note(
            Happened(
                action=Action.LOGIN,
                outcome=Outcome.ALLOWED,
                user_id=identity.user_id,
                organization_id=identity.organization_id,
                details={"issuer": person.issuer},
            )
        )
        return identity

    async def _person(self, answer: Mapping[str, str], *, browser: str, attempt: str) -> Known:
        provider = self._config.provider
        endpoints = await self._provider.endpoints()
        told = answer.get("iss")
        if told != provider.issuer and (told is not None or endpoints.says_who_answers):
            raise FederationRefused  # Somebody else's answer (RFC 9207).
        if "error" in answer or not answer.get("code"):
            raise FederationRefused
        ours = secrets_of(self._secret_key, browser=browser, attempt=attempt)
        claims = await self._provider.id_token(answer["code"], verifier=ours.verifier)
        return known(claims, provider, nonce=ours.nonce, now_s=time.time())
