"""The one strict reading of an access token (RFC 9068, hardened by RFC 8725).

A JWT library checks a signature and the claims it is told of; it accepts what it is not told of: another
`typ`, a `crit` nobody understands, a number for a name, a token that lives a year. Here whatever is
not exactly as the auth service writes it is refused, and nothing is said about why.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeGuard

import jwt

from services.common.errors import TokenExpired, TokenInvalid
from services.common.jws import Malformed, header_of, members, parse

ALGORITHM = "ES256"
TOKEN_TYPE = "at+jwt"  # noqa: S105 - a media type.
TOKEN_BYTES_MAX = 8192
LIFETIME_MAX_S = 600
CLOCK_SKEW_S = 30
AUDIENCES_MAX = 16
_NAME_MAX = 128
_HEADER = {"alg", "typ", "kid"}
_SCOPE = re.compile(r"(?:[!#-\[\]-~]+(?: [!#-\[\]-~]+)*)?")  # RFC 6749, section 3.3.
_REQUIRED = (
    "iss",
    "aud",
    "sub",
    "iat",
    "nbf",
    "exp",
    "jti",
    "client_id",
    "user_id",
    "role",
    "org",
    "project",
)


class Role(Enum):
    USER = "user"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling, from a verified token and nothing else."""

    user_id: str
    role: Role
    organization_id: str
    project_id: str
    client_id: str
    scopes: frozenset[str]
    token_id: str
    expires_at_s: int
    token: str = field(repr=False)  # To act for the caller elsewhere; never stored, never logged.
    session_id: str | None = (
        None  # `sid`: the login that the token descends from; what revokes it, revokes all.
    )
    api_key_id: str | None = None  # `api_key`: the key that the edge changed for this token.
    actor: str | None = None  # `act.sub` (RFC 8693): the service that acts for the user.
    key_thumbprint: str | None = None  # `cnf.jkt` (RFC 9449): the bearer must prove to hold this key.
    issued_at_s: int = 0
    key_id: str = ""  # Of the key that signed the token.

    @property
    def is_service(self) -> bool:
        return self.user_id == f"service:{self.client_id}"


def verify(
    token: str, keys: Mapping[str, jwt.PyJWK], *, issuer: str, audience: str | None, now_s: float
) -> Caller:
    """Return who the token speaks for. `audience` None: whatever service it is for.

    `keys` maps `kid` to a public key. Raises TokenExpired when only its time is over, else TokenInvalid.
    """
    try:
        parts = parse(token, bytes_max=TOKEN_BYTES_MAX)
        key_id = _key_id(parts.header)
        if not parts.is_signed_by(keys[key_id]):
            raise TokenInvalid
        claims = members(parts.payload)
        if claims["iss"] != issuer or not all(name in claims for name in _REQUIRED):
            raise TokenInvalid
        _check_audience(claims["aud"], audience)
    except (Malformed, KeyError):
        raise TokenInvalid from None
    _check_times(claims, now_s)
    return _caller(claims, token, key_id=key_id)


def key_id_of(token: str) -> str:
    """The key that a token says it was signed by, before that is believed. Raises TokenInvalid."""
    header, dot, _ = token.partition(".")
    if not dot or len(token) > TOKEN_BYTES_MAX or not token.isascii():
        raise TokenInvalid
    try:
        return _key_id(header_of(header))
    except Malformed:
        raise TokenInvalid from None


def role_of(token: str) -> str:
    """The role that a token says, of one that was verified, or had from the auth service itself. Empty if none."""
    try:
        claims = members(parse(token, bytes_max=TOKEN_BYTES_MAX).payload)
    except Malformed:
        return ""
    role = claims.get("role")
    return role if isinstance(role, str) else ""


def _key_id(header: Mapping[str, Any]) -> str:
    """A header has these members and no other: nothing in it may be about another key, or be left unread."""
    key_id = header.get("kid")
    if (
        header.keys() != _HEADER
        or header["typ"] != TOKEN_TYPE
        or header["alg"] != ALGORITHM
        or not isinstance(key_id, str)
    ):
        raise TokenInvalid
    return key_id


def _check_audience(found: object, wanted: str | None) -> None:
    if (
        not isinstance(found, list)
        or not 0 < len(found) <= AUDIENCES_MAX
        or not all(is_name(value) for value in found)
        or (wanted is not None and wanted not in found)
    ):
        raise TokenInvalid


def _check_times(claims: Mapping[str, Any], now_s: float) -> None:
    times = [claims[name] for name in ("iat", "nbf", "exp")]
    if not all(type(value) is int for value in times):
        raise TokenInvalid
    issued_s, not_before_s, expires_s = times
    if (
        min(times) < 0
        or not 0 < expires_s - issued_s <= LIFETIME_MAX_S
        or max(issued_s, not_before_s) > now_s + CLOCK_SKEW_S
    ):
        raise TokenInvalid
    if expires_s + CLOCK_SKEW_S <= now_s:
        raise TokenExpired


def _caller(claims: Mapping[str, Any], token: str, *, key_id: str) -> Caller:
    names = {name: claims[name] for name in ("sub", "user_id", "org", "project", "client_id", "jti")}
    scope = claims.get("scope", "")
    if (
        not all(is_name(value) for value in names.values())
        or names["sub"] != names["user_id"]
        or not isinstance(scope, str)
        or _SCOPE.fullmatch(scope) is None
    ):
        raise TokenInvalid
    optional = {"sid": claims.get("sid"), "api_key": claims.get("api_key")}
    optional |= {"act": _only(claims, "act", "sub"), "cnf": _only(claims, "cnf", "jkt")}
    if not all(value is None or is_name(value) for value in optional.values()):
        raise TokenInvalid
    try:
        role = Role(claims["role"])
    except ValueError:
        raise TokenInvalid from None
    return Caller(
        user_id=names["user_id"],
        role=role,
        organization_id=names["org"],
        project_id=names["project"],
        client_id=names["client_id"],
        scopes=frozenset(scope.split()),
        token_id=names["jti"],
        expires_at_s=claims["exp"],
        token=token,
        session_id=optional["sid"],
        api_key_id=optional["api_key"],
        actor=optional["act"],
        key_thumbprint=optional["cnf"],
        issued_at_s=claims["iat"],
        key_id=key_id,
    )


def _only(claims: Mapping[str, Any], name: str, member: str) -> object:
    """The one member that the object `name` must have, if it is there. Raises TokenInvalid."""
    if name not in claims:
        return None
    value = claims[name]
    if not isinstance(value, dict) or set(value) != {member}:
        raise TokenInvalid
    return value[member]


def is_name(value: object) -> TypeGuard[str]:
    """Whether it can be an id in a token: short, printable ASCII."""
    return isinstance(value, str) and 0 < len(value) <= _NAME_MAX and value.isascii() and value.isprintable()
