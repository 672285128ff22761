"""What OAuth clients are told: refusals in the words of its RFCs, documents as they want them."""

import json
from collections.abc import Mapping, Sequence

from services.auth.core.clients import Grant
from services.auth.core.identity import SCOPES, ScopeNotHeld
from services.auth.errors import ClientNotAllowed, ExchangeRefused, GrantInvalid, ScopeDenied
from services.common.errors import Kind, MeshError

# RFC 6749 section 5.1: what a token endpoint says must not be kept by anybody on the way.
NOT_STORED = (("cache-control", "no-store"), ("pragma", "no-cache"))
_BASIC, _POST, _PUBLIC = "client_secret_basic", "client_secret_post", "none"
_CODES: Mapping[type[MeshError], str] = {
    GrantInvalid: "invalid_grant",
    ClientNotAllowed: "unauthorized_client",
    ExchangeRefused: "invalid_request",  # RFC 8693 section 2.2.2.
    ScopeDenied: "invalid_target",
}


class OAuthError(Exception):
    """A refusal by one of OAuth's codes. The description is for developers."""

    def __init__(
        self, code: str, description: str, *, status: int = 400, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(code)
        self.code, self.description = code, description
        self.status = status
        self.headers = dict(headers or {})
        self.body = document({"error": code, "error_description": description})


def refusal(error: MeshError | ScopeNotHeld) -> OAuthError:
    """One of our failures in OAuth's words."""
    if isinstance(error, ScopeNotHeld):
        return OAuthError("invalid_scope", "that scope is not held")
    if (code := _CODES.get(type(error))) is not None:
        return OAuthError(code, str(error))
    wait = {} if error.retry_after_s is None else {"retry-after": str(max(1, round(error.retry_after_s)))}
    match error.kind:
        case Kind.UNAUTHENTICATED:
            challenge = {"www-authenticate": 'Basic realm="ollamesh", charset="UTF-8"'}
            return OAuthError("invalid_client", str(error), status=401, headers=challenge)
        case Kind.EXHAUSTED:
            return OAuthError("temporarily_unavailable", str(error), status=429, headers=wait)
        case _:
            return OAuthError("temporarily_unavailable", str(error), status=503, headers=wait)


def token_response(
    access_token: str, *, lifetime_s: int, scopes: frozenset[str], more: Mapping[str, object] | None = None
) -> bytes:
    return document(
        {
            "access_token": access_token,
            "token_type": "Bearer",
            "expires_in": lifetime_s,
            "scope": " ".join(sorted(scopes)),
            **(more or {}),
        }
    )


def server_metadata(issuer: str) -> dict[str, object]:
    """What clients may ask of this server (RFC 8414). The issuer must be the URL under which the edge is reached."""
    base = issuer.rstrip("/")
    return {
        "issuer": issuer,  # To the letter as in tokens: clients compare.
        "authorization_endpoint": f"{base}/oauth/authorize",
        "token_endpoint": f"{base}/oauth/token",
        "revocation_endpoint": f"{base}/oauth/revoke",
        "introspection_endpoint": f"{base}/oauth/introspect",
        "device_authorization_endpoint": f"{base}/oauth/device_authorization",
        "end_session_endpoint": f"{base}/oauth/logout",
        "jwks_uri": f"{base}/.well-known/jwks.json",
        "scopes_supported": sorted(SCOPES),
        "grant_types_supported": [grant.value for grant in Grant],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,  # RFC 9207.
        "token_endpoint_auth_methods_supported": [_BASIC, _POST, _PUBLIC],
        "revocation_endpoint_auth_methods_supported": [_BASIC, _POST, _PUBLIC],
        "introspection_endpoint_auth_methods_supported": [_BASIC, _POST],
    }


def jwk_set(keys: Sequence[Mapping[str, str]]) -> bytes:
    """Public keys as RFC 7517 publishes them."""
    return document({"keys": [dict(key) for key in keys]})


def document(contents: Mapping[str, object]) -> bytes:
    return json.dumps(contents, separators=(",", ":")).encode()
