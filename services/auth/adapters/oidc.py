"""An OpenID provider over HTTP: what it says of itself, its keys, and tokens for codes.

Nothing that comes from there is trusted further than it must be: answers are bounded in size and time, redirects are
not followed, the description must be of the issuer that the operator named, and addresses in it must be as safe as that.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote_plus

import httpx
import structlog
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import Key, KeySet, import_key

from services.auth.core.federation import Claims
from services.auth.errors import FederationRefused, ProviderUnavailable
from services.auth.federation_config import FederationConfig, is_safe

log = structlog.get_logger(__name__)

# With public keys only: a provider's key must never be taken for a shared secret, nor no key for a good one.
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]
ANSWER_BYTES_MAX = 1024 * 1024
TOKEN_BYTES_MAX = 64 * 1024
TIMEOUT_S = 5.0
KEPT_S = 3600.0
REFETCH_AFTER_S = 10.0  # An unknown key is worth a question so often, and no oftener.
CONNECTIONS_MAX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    by_basic: bool
    says_who_answers: bool


class HttpOpenIdProvider:
    """Implements federation.OpenIdProvider."""

    def __init__(self, config: FederationConfig, client: httpx.AsyncClient) -> None:
        self._config, self._client = config, client
        self._metadata: Metadata | None = None
        self._metadata_at_s = self._keys_at_s = float("-inf")
        self._keys = KeySet([])
        self._asking = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def connected(cls, config: FederationConfig) -> AsyncIterator[Self]:
        limits = httpx.Limits(max_connections=CONNECTIONS_MAX)
        async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits, follow_redirects=False) as client:
            yield cls(config, client)

    async def endpoints(self) -> Metadata:
        """What is known of the provider; an hour old at most, or older while it does not answer."""
        now_s = asyncio.get_running_loop().time()
        async with self._asking:
            if self._metadata is None or now_s - self._metadata_at_s > KEPT_S:
                try:
                    self._metadata = self._read(await self._get(self._discovery_url()))
                except ProviderUnavailable:
                    if self._metadata is None:
                        raise
                self._metadata_at_s = now_s
        return self._metadata

    async def id_token(self, code: str, *, verifier: str) -> Claims:
        """The claims of a token with a good signature, for a code. Raises FederationRefused, ProviderUnavailable."""
        metadata = await self.endpoints()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._config.redirect_uri,
            "code_verifier": verifier,
        }
        client = self._config.provider.client_id, self._config.client_secret
        if metadata.by_basic:
            answer = await self._json("POST", metadata.token_endpoint, form=form, client=client)
        else:
            form |= {"client_id": client[0], "client_secret": client[1]}
            answer = await self._json("POST", metadata.token_endpoint, form=form)
        token = answer.get("id_token")
        if not isinstance(token, str) or len(token) > TOKEN_BYTES_MAX:
            raise FederationRefused
        return await self._verified(token, metadata)

    async def _verified(self, token: str, metadata: Metadata) -> Claims:
        for again in (False, True):  # The second time for a key that was not there yet.
            keys = await self._known_keys(metadata, again=again)
            try:
                claims: Claims = jwt.decode(token, keys, algorithms=ALGORITHMS).claims
            except (JoseError, ValueError, KeyError, TypeError) as error:
                log.info("id_token_refused", error=type(error).__name__)
            else:
                return claims
        raise FederationRefused

    async def _known_keys(self, metadata: Metadata, *, again: bool) -> KeySet:
        now_s = asyncio.get_running_loop().time()
        async with self._asking:
            if now_s - self._keys_at_s > (REFETCH_AFTER_S if again else KEPT_S):
                answer = await self._get(metadata.jwks_uri)
                try:
                    self._keys = _public(answer)
                except (JoseError, ValueError, KeyError, TypeError) as error:
                    raise ProviderUnavailable from error
                self._keys_at_s = now_s
        return self._keys

    def _discovery_url(self) -> str:
        return f"{self._config.provider.issuer.rstrip('/')}/.well-known/openid-configuration"

    def _read(self, told: Mapping[str, Any]) -> Metadata:
        names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
        places = {name: told.get(name) for name in names}
        if told.get("issuer") != self._config.provider.issuer or not all(
            isinstance(place, str) and is_safe(place) for place in places.values()
        ):
            log.warning("provider_describes_another", issuer=self._config.provider.issuer)
            raise ProviderUnavailable
        methods = told.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        return Metadata(
            **{name: str(place) for name, place in places.items()},
            by_basic="client_secret_basic" in methods,
            says_who_answers=told.get("authorization_response_iss_parameter_supported") is True,
        )

    async def _get(self, url: str) -> Mapping[str, Any]:
        return await self._json("GET", url)

    async def _json(
        self,
        method: str,
        url: str,
        *,
        form: Mapping[str, str] | None = None,
        client: tuple[str, str] | None = None,
    ) -> Mapping[str, Any]:
        """Raises ProviderUnavailable, and FederationRefused where a request was refused as such."""
        auth = None if client is None else httpx.BasicAuth(*(quote_plus(part) for part in client))
        request = self._client.build_request(method, url, data=form)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                response = await self._client.send(request, auth=auth, stream=True)
                try:
                    body = await _bounded(response)
                finally:
                    await response.aclose()
            document = json.loads(body) if response.is_success else None
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
            log.warning("provider_failed", error=type(error).__name__)
            raise ProviderUnavailable from error
        if method == "POST" and response.status_code in {400, 401, 403}:
            raise FederationRefused
        if not isinstance(document, dict):
            raise ProviderUnavailable
        return document


async def _bounded(response: httpx.Response) -> bytes:
    body = b""
    async for part in response.aiter_bytes():
        body += part
        if len(body) > ANSWER_BYTES_MAX:
            raise ProviderUnavailable
    return body


def _public(document: Mapping[str, Any]) -> KeySet:
    """Of the keys that are published, those that a signature may be by. Others are passed over (RFC 7517, section 5)."""
    keys: list[Key] = []
    for key in document["keys"]:
        if isinstance(key, dict) and key.get("kty") in {"RSA", "EC"} and key.get("use", "sig") == "sig":
            try:
                keys.append(import_key(key))
            except (JoseError, ValueError, KeyError, TypeError) as error:
                log.info("provider_key_unreadable", error=type(error).__name__)
    return KeySet(keys)
