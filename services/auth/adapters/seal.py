"""Seals what must not be read in the database, with keys that change while it runs.

The first key seals, each opens. Whoever holds a Seal has the keys of now: they are replaced inside of it.
"""

import hashlib
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet


class Seal:
    def __init__(self, keys: Sequence[str]) -> None:
        self.replace(keys)

    def replace(self, keys: Sequence[str]) -> None:
        self._first, self._all = Fernet(keys[0]), MultiFernet([Fernet(key) for key in keys])
        self.key_id = key_id_of(keys[0])

    def encrypt(self, data: bytes) -> bytes:
        return self._all.encrypt(data)

    def decrypt(self, sealed: bytes) -> bytes:
        """Raises InvalidToken."""
        return self._all.decrypt(sealed)

    def renewed(self, sealed: bytes) -> bytes | None:
        """The same, sealed with the first key; None if it is already. Raises InvalidToken."""
        try:
            self._first.decrypt(sealed)
        except InvalidToken:
            return self._all.rotate(sealed)
        return None


def key_id_of(key: str) -> str:
    """What a key may be called by: it says nothing of the key, of which there are 2**256."""
    return hashlib.sha256(b"ollamesh-encryption-key-1\n" + key.encode()).hexdigest()[:16]
