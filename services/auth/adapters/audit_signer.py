"""Signs heads of the audit chain, and knows our signatures (JWS, ES256).

Keys of their own, which are published nowhere and sign nothing else. As with the keys of tokens, a public half is derived
from the private one, which is sealed: so a key that somebody put into the database is nobody's.
"""

import base64
import hashlib
from collections.abc import Iterable
from typing import Protocol

import jwt
from cryptography.fernet import InvalidToken
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

TYPE = "ollamesh-audit-head"
ALGORITHM = "ES256"


class Seal(Protocol):
    """Of what must not be read in the database."""

    def encrypt(self, data: bytes, /) -> bytes: ...

    def decrypt(self, sealed: bytes, /) -> bytes:
        """Raises InvalidToken."""
        ...


class AuditSigner:
    """Signs with the newest key that it was given, and reads what any of them signed."""

    def __init__(self, seal: Seal) -> None:
        self._seal = seal
        self._jws = jwt.PyJWS(algorithms=[ALGORITHM])
        self._keys: dict[str, ec.EllipticCurvePrivateKey] = {}  # The newest last.

    def load(self, stored: Iterable[tuple[str, bytes]]) -> bool:
        """Take the keys, oldest first. Whether one of them can sign, or there is none to begin with."""
        rows = list(stored)
        for key_id, sealed in rows:
            key = self._opened(sealed)
            if key is not None and _key_id(key) == key_id:
                self._keys[key_id] = key
        return bool(self._keys) or not rows

    def make(self) -> tuple[str, bytes]:
        """A new key's id and the key, sealed."""
        key = ec.generate_private_key(ec.SECP256R1())
        return _key_id(key), self._sealed(key)

    def sealed(self) -> dict[str, bytes]:
        """Every key that it has, sealed with the encryption key of now."""
        return {key_id: self._sealed(key) for key_id, key in self._keys.items()}

    @property
    def can_sign(self) -> bool:
        return bool(self._keys)

    def sign(self, payload: bytes) -> str:
        key_id, key = next(reversed(self._keys.items()))
        return self._jws.encode(payload, key, algorithm=ALGORITHM, headers={"typ": TYPE, "kid": key_id})

    def read(self, signed: str) -> bytes | None:
        """What was signed, if one of our keys did."""
        try:
            header = self._jws.get_unverified_header(signed)
            if header.get("typ") != TYPE:
                return None
            public = self._keys[header["kid"]].public_key()
            payload: bytes = self._jws.decode(signed, public, algorithms=[ALGORITHM])
        except (jwt.PyJWTError, KeyError, TypeError):
            return None
        return payload

    def _opened(self, sealed: bytes) -> ec.EllipticCurvePrivateKey | None:
        try:
            key = serialization.load_der_private_key(self._seal.decrypt(sealed), password=None)
        except (InvalidToken, ValueError):
            return None
        return key if isinstance(key, ec.EllipticCurvePrivateKey) else None

    def _sealed(self, key: ec.EllipticCurvePrivateKey) -> bytes:
        der = key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return self._seal.encrypt(der)


def _key_id(key: ec.EllipticCurvePrivateKey) -> str:
    der = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()
