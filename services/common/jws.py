"""One strict reading of a compact JWS (RFC 7515): one spelling for one content, and nothing that is not expected.

Libraries are lenient where RFC 8725 is not: they take other spellings of the same bytes, let a second member of the
same name win, read UTF-16, or follow what a header says about the key. Here only the signature's arithmetic is
theirs.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NoReturn

import jwt

HEADERS_REMEMBERED = 64  # All tokens of a signing key begin alike.
SIGNATURE_BYTES = 64  # Of ES256: two coordinates.


class Malformed(ValueError):
    """Not what we write; why is nobody's business."""


@dataclass(frozen=True, slots=True)
class Jws:
    """The parts of one, before anything in it is believed."""

    header: Mapping[str, Any]
    payload: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    signed: bytes = field(repr=False)  # What the signature is over.

    def is_signed_by(self, key: jwt.PyJWK) -> bool:
        """Whether the holder of `key` signed it, with the one algorithm of that key."""
        if len(self.signature) != SIGNATURE_BYTES or self.header.get("alg") != key.algorithm_name:
            return False
        return key.Algorithm.verify(self.signed, key.key, self.signature)


def parse(text: str, *, bytes_max: int) -> Jws:
    """Take it apart. Raises Malformed."""
    if len(text) > bytes_max or not text.isascii():
        raise Malformed
    signed, _, signature = text.rpartition(".")
    header, dot, payload = signed.partition(".")
    if not dot or "." in payload:
        raise Malformed
    return Jws(header_of(header), canonical_bytes(payload), canonical_bytes(signature), signed.encode())


@lru_cache(HEADERS_REMEMBERED)
def header_of(text: str) -> Mapping[str, Any]:
    """The header that a token begins with. Nobody changes it. Raises Malformed."""
    return members(canonical_bytes(text))


def members(document: bytes) -> dict[str, Any]:
    """The members of a JSON object, each of which is there once. Raises Malformed."""
    try:
        found = _DECODER.decode(document.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Malformed from None
    if not isinstance(found, dict):
        raise Malformed
    return found


def canonical_bytes(text: str) -> bytes:
    """Decode base64url, in its one canonical spelling: no padding, no stray bits, nothing else. Raises Malformed."""
    try:
        encoded = text.encode("ascii")
        decoded = base64.urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4))
    except (UnicodeEncodeError, binascii.Error):
        raise Malformed from None
    if not decoded or base64.urlsafe_b64encode(decoded).rstrip(b"=") != encoded:
        raise Malformed
    return decoded


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed
    return found


def _no_number(_text: str) -> NoReturn:
    """For NaN and the infinities, which are none of JSON's."""
    raise Malformed


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number)
