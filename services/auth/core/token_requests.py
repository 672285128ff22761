"""What the token endpoint is asked for, one class for each grant. Raises OAuthError for everything else."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from services.auth.core.clients import Grant
from services.auth.core.forms import ClientProof, Form, read_client
from services.auth.core.identity import SCOPES
from services.auth.core.oauth import OAuthError

ACCESS_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - A name.
_JWT_TYPE = "urn:ietf:params:oauth:token-type:jwt"


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """A client wants its own rights, or a part of them."""

    proof: ClientProof
    scopes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class CodeRedemption:
    proof: ClientProof
    code: str = field(repr=False)
    verifier: str = field(repr=False)
    redirect_uri: str


@dataclass(frozen=True, slots=True)
class Refreshing:
    proof: ClientProof
    refresh_token: str | None = field(repr=False)  # None: a browser's, in its cookie.
    scopes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class DevicePoll:
    proof: ClientProof
    device_code: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A service wants to act for the user whose token it holds."""

    proof: ClientProof
    subject_token: str = field(repr=False)
    scopes: frozenset[str]


TokenRequest = ClientCredentials | CodeRedemption | Refreshing | DevicePoll | Exchange


def token_request(form: Form, authorization: Sequence[str]) -> TokenRequest:
    """Read a token request. `authorization` holds the values of that header."""
    try:
        grant = Grant(form.need("grant_type"))
    except ValueError:
        raise OAuthError("unsupported_grant_type", "this grant is not served") from None
    proof = read_client(form, authorization)
    match grant:
        case Grant.CLIENT_CREDENTIALS:
            return ClientCredentials(proof, scopes_of(form))
        case Grant.AUTHORIZATION_CODE:
            return CodeRedemption(
                proof, form.need("code"), form.need("code_verifier"), form.need("redirect_uri")
            )
        case Grant.REFRESH_TOKEN:
            return Refreshing(proof, form.get("refresh_token") or None, scopes_of(form))
        case Grant.DEVICE_CODE:
            return DevicePoll(proof, form.need("device_code"))
        case Grant.TOKEN_EXCHANGE:
            return _exchange(form, proof)


def scopes_of(form: Form) -> frozenset[str]:
    return frozenset(form.get("scope").split())


def _exchange(form: Form, proof: ClientProof) -> Exchange:
    """RFC 8693, as far as it makes sense here: one access token in, one out, and the client is the actor."""
    if form.need("subject_token_type") not in {ACCESS_TOKEN_TYPE, _JWT_TYPE}:
        raise OAuthError("invalid_request", "the subject token must be an access token")
    if form.get("requested_token_type") not in {"", ACCESS_TOKEN_TYPE, _JWT_TYPE}:
        raise OAuthError("invalid_request", "only access tokens are issued")
    if form.get("actor_token") or form.get("actor_token_type"):
        raise OAuthError("invalid_request", "the client itself is the actor; it has authenticated already")
    audiences = frozenset(form.all("audience"))
    if form.all("resource") or not audiences <= SCOPES:
        raise OAuthError("invalid_target", "an audience is the name of a service")
    scopes = scopes_of(form)
    if scopes and audiences and scopes != audiences:
        raise OAuthError("invalid_scope", "a scope is the service that the token is for: they must agree")
    return Exchange(proof, form.need("subject_token"), scopes or audiences)
