"""Proof that a caller holds a key (DPoP, RFC 9449), so that a token that is bound to it is useless to a thief.

The caller makes an ES256 key and sends a fresh proof with each call: a JWS that carries the public key and names the
call, the token and the moment. No nonces: each proof is good once, for a minute, at each replica.
"""

import base64
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from services.common.errors import AuthUnavailable, TokenInvalid
from services.common.jwk import public_key
from services.common.jws import Malformed, members, parse
from services.common.tokens import ALGORITHM, CLOCK_SKEW_S, is_name

PROOF_TYPE = "dpop+jwt"
PROOF_BYTES_MAX = 4096
AGE_S_MAX = 60.0
REMEMBERED_MAX = 65_536  # A thousand calls a second that are bound, for as long as a proof is good.
_HEADER = {"typ", "alg", "jwk"}
_JWK = {"kty", "crv", "x", "y"}
_OPTIONAL = {"alg", "use", "kid"}
_CLAIMS = ("jti", "htm", "htu", "iat")


@dataclass(frozen=True, slots=True)
class Proof:
    thumbprint: str  # Of the key that its sender holds (RFC 7638).
    proof_id: str
    good_until_s: float


def read_proof(proof: str, *, paths: Collection[str], now_s: float, access_token: str | None = None) -> Proof:
    """Read one for a call that may be named by any of `paths`, presented with `access_token`. Raises TokenInvalid."""
    try:
        parts = parse(proof, bytes_max=PROOF_BYTES_MAX)
        jwk = _jwk(parts.header)
        if not parts.is_signed_by(public_key(jwk)):
            raise TokenInvalid
        claims = members(parts.payload)
    except Malformed:
        raise TokenInvalid from None
    _check_claims(claims, paths, now_s, access_token)
    return Proof(thumbprint_of(jwk), claims["jti"], claims["iat"] + AGE_S_MAX + CLOCK_SKEW_S)


class Used:
    """The proofs that were used, each of which is good once. One for a process."""

    def __init__(self, *, remembered_max: int = REMEMBERED_MAX) -> None:
        self._remembered_max = remembered_max
        self._until_s: dict[bytes, float] = {}

    def once(self, proof: Proof, *, now_s: float) -> None:
        """Raise TokenInvalid for one that came before; AuthUnavailable when there are too many to tell."""
        digest = hashlib.sha256(f"{proof.thumbprint}.{proof.proof_id}".encode()).digest()
        if self._until_s.get(digest, 0.0) > now_s:
            raise TokenInvalid
        if len(self._until_s) >= self._remembered_max:
            self._until_s = {known: end_s for known, end_s in self._until_s.items() if end_s > now_s}
        if len(self._until_s) >= self._remembered_max:
            raise AuthUnavailable
        self._until_s[digest] = proof.good_until_s


def thumbprint_of(jwk: Mapping[str, Any]) -> str:
    """By RFC 7638."""
    required = {name: jwk[name] for name in sorted(_JWK)}
    return _base64url(hashlib.sha256(json.dumps(required, separators=(",", ":")).encode()).digest())


def _jwk(header: Mapping[str, Any]) -> Mapping[str, Any]:
    jwk = header.get("jwk")
    if (
        header.keys() != _HEADER
        or header["typ"] != PROOF_TYPE
        or header["alg"] != ALGORITHM
        or not isinstance(jwk, dict)
        or not jwk.keys() <= _JWK | _OPTIONAL
    ):
        raise TokenInvalid
    return jwk


def _check_claims(
    claims: Mapping[str, Any], paths: Collection[str], now_s: float, access_token: str | None
) -> None:
    proof_id, method, uri, issued_s = (claims.get(name) for name in _CLAIMS)
    if (
        not is_name(proof_id)
        or method != "POST"
        or _path(uri) not in paths
        or type(issued_s) is not int
        or not -CLOCK_SKEW_S - AGE_S_MAX <= issued_s - now_s <= CLOCK_SKEW_S
    ):
        raise TokenInvalid
    if access_token is not None:
        digest = hashlib.sha256(access_token.encode()).digest()
        if claims.get("ath") != _base64url(digest):
            raise TokenInvalid


def _path(uri: object) -> str | None:
    """Of the URI that a proof names. Behind an edge nobody knows by which name it was reached: the path has to do."""
    if not isinstance(uri, str) or not uri.isascii():
        return None
    try:
        found = urlsplit(uri)
    except ValueError:
        return None
    if found.query or found.fragment or found.scheme not in {"", "http", "https"}:
        return None
    return found.path


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
