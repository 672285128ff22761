"""ES256 keys: made, sealed for the store, opened, and used to sign.

A key's id is its thumbprint (RFC 7638), and its public half is derived from the private one each time.
So a row that somebody wrote into the store without the encryption key is never published.
"""

import base64
import hashlib
import json

import jwt
from cryptography.fernet import InvalidToken
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.auth.adapters.seal import Seal
from services.auth.core.claims import Claims
from services.auth.ports import SigningKey
from services.common.tokens import ALGORITHM, TOKEN_TYPE


class Es256Key:
    def __init__(self, private: ec.EllipticCurvePrivateKey) -> None:
        numbers = private.public_key().public_numbers()
        point = {"crv": "P-256", "kty": "EC", "x": _coordinate(numbers.x), "y": _coordinate(numbers.y)}
        canonical = json.dumps(point, separators=(",", ":"), sort_keys=True).encode()
        self._private = private
        self.key_id = _base64url(hashlib.sha256(canonical).digest())
        self.public_jwk = point | {"kid": self.key_id, "alg": ALGORITHM, "use": "sig"}

    def sign(self, claims: Claims) -> str:
        header = {"typ": TOKEN_TYPE, "kid": self.key_id}
        return jwt.encode(dict(claims), self._private, algorithm=ALGORITHM, headers=header)


class Es256Locksmith:
    """Seals with the first of `encryption_keys`, opens with any: so they can be rotated."""

    def __init__(self, encryption_keys: tuple[str, ...] | Seal) -> None:
        self._fernet = encryption_keys if isinstance(encryption_keys, Seal) else Seal(encryption_keys)

    def make(self) -> tuple[str, bytes]:
        private = ec.generate_private_key(ec.SECP256R1())
        der = private.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Es256Key(private).key_id, self._fernet.encrypt(der)

    def open(self, key_id: str, sealed: bytes) -> SigningKey | None:
        try:
            private = serialization.load_der_private_key(self._fernet.decrypt(sealed), password=None)
        except (InvalidToken, ValueError):
            return None
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            return None
        key = Es256Key(private)
        return key if key.key_id == key_id else None

    def resealed(self, sealed: bytes) -> bytes | None:
        try:
            return self._fernet.renewed(sealed)
        except InvalidToken:
            return None


def _coordinate(value: int) -> str:
    return _base64url(value.to_bytes(32, "big"))


def _base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
