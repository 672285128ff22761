"""Authenticated encryption for what leaves the process: nobody who can read or write a store can read what is in it, or
pass one thing off as another.

Each tenant and purpose has a key of its own, derived (RFC 5869) from ENCRYPTION_KEY; what is sealed is bound to the
name that it is kept under, so a value that was moved or swapped does not open. The first key seals, each opens.
"""

import base64
import secrets
from collections.abc import Sequence
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

NONCE_BYTES = 12
KEYS_KEPT_MAX = 1024  # Derived ones, for as many tenants and purposes.


class Seals:
    """Seals for one purpose, such as "cache"."""

    def __init__(self, encryption_keys: Sequence[str], *, purpose: str) -> None:
        """`encryption_keys` are Fernet's: 32 bytes in URL-safe base64 each."""
        keys = [base64.urlsafe_b64decode(key) for key in encryption_keys]

        @lru_cache(KEYS_KEPT_MAX)
        def ciphers(tenant: str) -> tuple[AESGCM, ...]:
            info = f"ollamesh\0{purpose}\0{tenant}".encode()
            return tuple(AESGCM(HKDF(SHA256(), 32, salt=None, info=info).derive(key)) for key in keys)

        self._ciphers = ciphers

    def seal(self, data: bytes, *, tenant: str, name: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._ciphers(tenant)[0].encrypt(nonce, data, name)

    def open(self, sealed: bytes, *, tenant: str, name: bytes) -> bytes | None:
        """Return what was sealed under `name` for `tenant`; None if this is not it."""
        nonce, rest = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        for cipher in self._ciphers(tenant):
            try:
                return cipher.decrypt(nonce, rest, name)
            except (InvalidTag, ValueError):
                continue
        return None
