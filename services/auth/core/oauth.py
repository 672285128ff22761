"""The token endpoint's side of OAuth 2.0: forms in, documents out, byte for byte as RFC 6749 wants them."""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote_plus

from services.auth.core.identity import SCOPES, ScopeNotHeld
from services.auth.errors import CredentialsInvalid
from services.common.errors import Kind, MeshError

FORM = "application/x-www-form-urlencoded"
GRANT_TYPE = "client_credentials"
BODY_BYTES_MAX = 16_384
FIELD_COUNT_MAX = 32
CLIENT_ID_MAX = 128
SECRET_BYTES_MAX = 1024
# RFC 6749 section 5.1: what a token endpoint says must not be kept by anybody on the way.
NOT_STORED = (("cache-control", "no-store"), ("pragma", "no-cache"))


class OAuthError(Exception):
    """A refusal by one of the codes of RFC 6749 section 5.2. The description is for developers."""

    def __init__(
        self, code: str, description: str, *, status: int = 400, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(code)
        self.status = status
        self.headers = dict(headers or {})
        self.body = _json({"error": code, "error_description": description})


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """A client that says who it is and wants its own rights, or a part of them."""

    client_id: str
    client_secret: str = field(repr=False)
    scopes: frozenset[str] = frozenset()


def token_request(content_type: str, body: bytes, authorization: Sequence[str]) -> ClientCredentials:
    """Read a token request. `authorization` holds the values of that header. Raises OAuthError."""
    if content_type.partition(";")[0].strip().lower() != FORM:
        raise OAuthError("invalid_request", f"the body must be {FORM}")
    fields = _fields(body)
    if "grant_type" not in fields:
        raise OAuthError("invalid_request", "grant_type is missing")
    if fields["grant_type"] != GRANT_TYPE:
        raise OAuthError("unsupported_grant_type", f"only {GRANT_TYPE} is served")
    client_id, client_secret = _client(fields, authorization)
    if len(client_id) > CLIENT_ID_MAX or len(client_secret.encode()) > SECRET_BYTES_MAX:
        raise refusal(CredentialsInvalid())
    return ClientCredentials(client_id, client_secret, frozenset(fields.get("scope", "").split()))


def token_response(access_token: str, *, lifetime_s: int, scopes: frozenset[str]) -> bytes:
    return _json(
        {
            "access_token": access_token,
            "token_type": "Bearer",
            "expires_in": lifetime_s,
            "scope": " ".join(sorted(scopes)),
        }
    )


def refusal(error: MeshError | ScopeNotHeld) -> OAuthError:
    """One of our failures in OAuth's words."""
    if isinstance(error, ScopeNotHeld):
        return OAuthError("invalid_scope", "the client does not hold that scope")
    wait = {} if error.retry_after_s is None else {"retry-after": str(max(1, round(error.retry_after_s)))}
    match error.kind:
        case Kind.UNAUTHENTICATED:
            challenge = {"www-authenticate": 'Basic realm="ollamesh", charset="UTF-8"'}
            return OAuthError("invalid_client", str(error), status=401, headers=challenge)
        case Kind.EXHAUSTED:
            return OAuthError("temporarily_unavailable", str(error), status=429, headers=wait)
        case _:
            return OAuthError("temporarily_unavailable", str(error), status=503, headers=wait)


def server_metadata(issuer: str) -> bytes:
    """What clients may ask of this server (RFC 8414). The issuer must be the URL under which the edge is reached."""
    base = issuer.rstrip("/")
    return _json(
        {
            "issuer": issuer,
            "token_endpoint": f"{base}/oauth/token",
            "jwks_uri": f"{base}/.well-known/jwks.json",
            "scopes_supported": sorted(SCOPES),
            "grant_types_supported": [GRANT_TYPE],
            "response_types_supported": [],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        }
    )


def jwk_set(keys: Sequence[Mapping[str, str]]) -> bytes:
    """Public keys as RFC 7517 publishes them."""
    return _json({"keys": [dict(key) for key in keys]})


def _fields(body: bytes) -> dict[str, str]:
    if len(body) > BODY_BYTES_MAX:
        raise OAuthError("invalid_request", "the form is too long")
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, max_num_fields=FIELD_COUNT_MAX, errors="strict"
        )
    except ValueError:
        raise OAuthError("invalid_request", "the form cannot be read") from None
    if len({name for name, _ in pairs}) != len(pairs):
        raise OAuthError("invalid_request", "a field is given more than once")
    return {name: value for name, value in pairs if value}  # A field without a value is as good as none.


def _client(fields: Mapping[str, str], authorization: Sequence[str]) -> tuple[str, str]:
    """The client's name and secret, from the header or from the form, but not from both."""
    in_form = fields.get("client_id", ""), fields.get("client_secret", "")
    if not authorization:
        if not all(in_form):
            raise refusal(CredentialsInvalid())
        return in_form
    if in_form[1] or len(authorization) > 1:
        raise OAuthError("invalid_request", "the client authenticates in more than one way")
    in_header = _basic(authorization[0])
    if in_form[0] not in {"", in_header[0]}:
        raise OAuthError("invalid_request", "the header and the form name different clients")
    return in_header


def _basic(authorization: str) -> tuple[str, str]:
    """RFC 7617, both halves form-encoded inside as RFC 6749 section 2.3.1 wants."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        raise refusal(CredentialsInvalid())
    try:
        name, _, secret = base64.b64decode(encoded.strip(), validate=True).decode("ascii").partition(":")
        client = unquote_plus(name, errors="strict"), unquote_plus(secret, errors="strict")
    except (binascii.Error, ValueError):
        raise refusal(CredentialsInvalid()) from None
    if not all(client):
        raise refusal(CredentialsInvalid())
    return client


def _json(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
