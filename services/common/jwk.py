"""One strict reading of a public key as a JWK (RFC 7517), and of a set of them."""

from collections.abc import Mapping
from typing import Any

import jwt

from services.common.jws import Malformed, canonical_bytes, members

KEYS_MAX = 64  # A set holds what signs now, what did and what will: a handful.
_COORDINATE_BYTES = 32


def public_key(jwk: Mapping[str, Any]) -> jwt.PyJWK:
    """A P-256 key that verifies ES256 and nothing else. Raises Malformed, for a private key too."""
    if (
        jwk.get("kty") != "EC"
        or jwk.get("crv") != "P-256"
        or "d" in jwk
        or jwk.get("alg", "ES256") != "ES256"
        or jwk.get("use", "sig") != "sig"
        or jwk.get("key_ops", ["verify"]) != ["verify"]
        or not all(_is_coordinate(jwk.get(name)) for name in ("x", "y"))
    ):
        raise Malformed
    try:
        return jwt.PyJWK(dict(jwk), algorithm="ES256")
    except (jwt.PyJWTError, ValueError, TypeError):  # Not a point of the curve.
        raise Malformed from None


def key_set(document: bytes) -> dict[str, jwt.PyJWK]:
    """The keys of a set, by `kid`. Those that are not for ES256 are left out. Raises Malformed.

    Two of the same name make the whole set worthless: nobody could tell which one is meant.
    """
    listed = members(document).get("keys")
    if not isinstance(listed, list) or len(listed) > KEYS_MAX:
        raise Malformed
    found: dict[str, jwt.PyJWK] = {}
    named: set[str] = set()
    for jwk in listed:
        if not isinstance(jwk, dict) or not isinstance(key_id := jwk.get("kid"), str) or key_id in named:
            raise Malformed
        named.add(key_id)
        try:
            found[key_id] = public_key(jwk)
        except Malformed:
            continue
    return found


def _is_coordinate(value: object) -> bool:
    return isinstance(value, str) and len(canonical_bytes(value)) == _COORDINATE_BYTES
