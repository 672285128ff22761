"""Who somebody is by the word of an OpenID provider, and what such a person may do here.

A person is the provider's `iss` and `sub`, and nothing else: names and addresses change hands, and whoever may choose
theirs could otherwise become somebody else. What they may do is read from one claim, each time they sign in.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from services.auth.core.identity import Role
from services.auth.errors import FederationRefused

CLOCK_SKEW_S = 30
SUBJECT_LENGTH_MAX = 255  # As OpenID Connect Core has it.
NAME_LENGTH_MAX = 256

Claims = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """What the operator has said of the provider and of who comes from there."""

    issuer: str
    client_id: str
    organization_id: str
    project_id: str
    role_claim: str
    admin_values: frozenset[str]
    user_values: frozenset[str]  # None: everybody whom the provider knows.


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A person, by the provider's word."""

    issuer: str
    subject: str
    role: Role
    display_name: str


@dataclass(frozen=True, slots=True)
class Secrets:
    """What ties an answer of the provider to the question and to the browser that asked."""

    nonce: str
    verifier: str  # PKCE, RFC 7636.

    @property
    def challenge(self) -> str:
        return _text(hashlib.sha256(self.verifier.encode()).digest())


def secrets_of(secret_key: str, *, browser: str, attempt: str) -> Secrets:
    """Derived from what the browser keeps and from what goes to the provider and back; so nothing is stored, and
    neither of the two is enough to know them.
    """
    key = hmac.digest(secret_key.encode(), b"ollamesh federation 1", "sha256")
    seed = hmac.digest(key, f"{len(browser)}:{browser}{attempt}".encode(), "sha256")
    return Secrets(
        nonce=_text(hmac.digest(seed, b"nonce", "sha256")),
        verifier=_text(hmac.digest(seed, b"verifier", "sha256")),
    )


def known(claims: Claims, provider: Provider, *, nonce: str, now_s: float) -> Known:
    """Read an id_token whose signature is good. Raises FederationRefused for whatever is not meant for us, now."""
    subject, audience = claims.get("sub"), claims.get("aud")
    audiences = [audience] if isinstance(audience, str) else audience
    if (
        claims.get("iss") != provider.issuer
        or not isinstance(audiences, list)
        or provider.client_id not in audiences
        or (len(audiences) > 1 and claims.get("azp") != provider.client_id)
        or claims.get("azp", provider.client_id) != provider.client_id
        or not _is_same(claims.get("nonce"), nonce)
        or not isinstance(subject, str)
        or not 0 < len(subject) <= SUBJECT_LENGTH_MAX
        or not subject.isprintable()
    ):
        raise FederationRefused
    _check_times(claims, now_s)
    return Known(
        issuer=provider.issuer, subject=subject, role=_role(claims, provider), display_name=_name(claims)
    )


def _check_times(claims: Claims, now_s: float) -> None:
    expires_s, issued_s, not_before_s = claims.get("exp"), claims.get("iat"), claims.get("nbf", 0)
    if not (_is_time(expires_s) and _is_time(issued_s) and _is_time(not_before_s)):
        raise FederationRefused
    assert isinstance(expires_s, int | float)
    assert isinstance(issued_s, int | float)
    assert isinstance(not_before_s, int | float)
    if expires_s + CLOCK_SKEW_S <= now_s or max(issued_s, not_before_s) > now_s + CLOCK_SKEW_S:
        raise FederationRefused


def _role(claims: Claims, provider: Provider) -> Role:
    told = claims.get(provider.role_claim)
    values = (
        {told}
        if isinstance(told, str)
        else {each for each in told if isinstance(each, str)}
        if isinstance(told, list)
        else set()
    )
    if values & provider.admin_values:
        return Role.ADMIN
    if provider.user_values and not values & provider.user_values:
        raise FederationRefused
    return Role.USER


def _name(claims: Claims) -> str:
    """What to call them; only people read it."""
    found = next(
        (value for name in ("name", "preferred_username") if isinstance(value := claims.get(name), str)), ""
    )
    return "".join(character for character in found if character.isprintable())[:NAME_LENGTH_MAX]


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53


def _is_same(value: object, expected: str) -> bool:
    return isinstance(value, str) and hmac.compare_digest(value.encode(), expected.encode())


def _text(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
