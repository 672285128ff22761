"""By what a request that comes again is known to be the same.

Keyed: a request may hold a password, and a plain hash of it would let whoever reads the store guess as fast as a
processor hashes. The key is derived, so that SECRET_KEY itself digests nothing.
"""

import hmac


class RequestDigest:
    def __init__(self, secret_key: str) -> None:
        self._key = hmac.digest(secret_key.encode(), b"ollamesh request body 1", "sha256")

    def of(self, method: str, body: bytes) -> bytes:
        return hmac.digest(self._key, method.encode() + b"\0" + body, "sha256")
