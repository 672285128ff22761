"""Authorization codes: what is asked for, what a code stands for, and when it is good for tokens.

PKCE is required of everybody, by S256 only: a code that is read on its way back is worth nothing without the verifier,
which never left the client.
"""

import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from services.auth.core.clients import Client, Grant

LIFETIME_S = 60.0  # A2: at most a minute.
STATE_LENGTH_MAX = 1024
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")  # 32 bytes in base64url: all that S256 can make.
_UNSERVED = {"request": "request_not_supported", "request_uri": "request_uri_not_supported"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationRequest:
    """What a client wants of a person, after every check that needs no person."""

    client_id: str
    redirect_uri: str
    scopes: frozenset[str]
    code_challenge: str
    state: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationCode:
    """What a person has allowed, until the client fetches it."""

    digest: bytes = field(repr=False)
    client_id: str
    redirect_uri: str
    code_challenge: str
    user_id: str
    scopes: frozenset[str]


class Unanswerable(Exception):
    """The request names no place that is safe to send its answer to, so the person is told, and nobody else."""


class Refused(Exception):
    """An answer for the client, at an address that is known to be the client's."""

    def __init__(self, redirect_uri: str, state: str | None, code: str, description: str) -> None:
        super().__init__(code)
        self.redirect_uri, self.state, self.code, self.description = redirect_uri, state, code, description


Parameters = Mapping[str, Sequence[str]]


def client_of(parameters: Parameters) -> str:
    """Which client asks. Raises Unanswerable."""
    if not (client_id := _one(parameters, "client_id")):
        raise Unanswerable
    return client_id


def checked(parameters: Parameters, client: Client) -> AuthorizationRequest:
    """The request of a known client. Raises Unanswerable, or Refused where the client may learn why."""
    redirect_uri = _one(parameters, "redirect_uri")
    if not redirect_uri or not client.allows_redirect(redirect_uri):
        raise Unanswerable
    state = _one(parameters, "state")
    if state is not None and len(state) > STATE_LENGTH_MAX:
        raise Unanswerable

    if (broken := _broken(parameters, client)) is not None:
        raise Refused(redirect_uri, state, *broken)
    return AuthorizationRequest(
        client_id=client.client_id,
        redirect_uri=redirect_uri,
        scopes=_scopes(parameters, client),
        code_challenge=_one(parameters, "code_challenge") or "",
        state=state,
    )


def _broken(parameters: Parameters, client: Client) -> tuple[str, str] | None:
    """The first rule that the request breaks: its code and a description."""
    unserved = next((name for name in _UNSERVED if _one(parameters, name)), None)
    challenge = _one(parameters, "code_challenge") or ""
    is_challenge = _one(parameters, "code_challenge_method") == "S256" and _CHALLENGE.fullmatch(challenge)
    rules = (
        (
            all(len(values) <= 1 for values in parameters.values()),
            ("invalid_request", "a parameter is given more than once"),
        ),
        (unserved is None, (_UNSERVED.get(unserved or "", ""), f"{unserved} is not served")),
        (
            _one(parameters, "response_type") == "code",
            ("unsupported_response_type", "only the response type `code` is served"),
        ),
        (
            _one(parameters, "response_mode") in {None, "query"},
            ("invalid_request", "only the response mode `query` is served"),
        ),
        (
            Grant.AUTHORIZATION_CODE in client.grants,
            ("unauthorized_client", "the client may not use this grant"),
        ),
        (is_challenge, ("invalid_request", "PKCE is required, with the method S256")),
        (
            _scopes(parameters, client) <= client.scopes,
            ("invalid_scope", "the client does not hold that scope"),
        ),
    )
    return next((failure for holds, failure in rules if not holds), None)


def _scopes(parameters: Parameters, client: Client) -> frozenset[str]:
    return frozenset((_one(parameters, "scope") or "").split()) or client.scopes


def is_good(code: AuthorizationCode, *, client_id: str, redirect_uri: str, challenge: str) -> bool:
    """Whether it was given to this client, for this place, and for whoever holds what `challenge` is made of."""
    fits = hmac.compare_digest(challenge, code.code_challenge)
    return fits and code.client_id == client_id and code.redirect_uri == redirect_uri


def answer(redirect_uri: str, parameters: Mapping[str, str | None]) -> str:
    """Where to send a browser, with what its client is told."""
    parts = urlsplit(redirect_uri)
    told = [(name, value) for name, value in parameters.items() if value is not None]
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), *told])
    return urlunsplit(parts._replace(query=query))


def _one(parameters: Parameters, name: str) -> str | None:
    """The value of a parameter; an empty one is as good as none. Of several, the first: `checked` refuses them later."""
    values = parameters.get(name, ())
    return (values[0] or None) if values else None
