"""What is kept of a client's secret.

A secret is random and long (32 bytes at least), so a keyed digest is enough; a slow hash would only help
against guessing, and would cost a core for each token. The key is derived, so that SECRET_KEY itself
signs or digests nothing.
"""

import hmac

DIGEST_BYTES = 32


class SecretDigest:
    def __init__(self, secret_key: str) -> None:
        self._pepper = hmac.digest(secret_key.encode(), b"ollamesh client secret 1", "sha256")

    def of(self, secret: str) -> bytes:
        return hmac.digest(self._pepper, secret.encode(), "sha256")

    def fits(self, digest: bytes | None, secret: str) -> bool:
        """Whether `secret` is the one; False for no digest, after the same time."""
        return hmac.compare_digest(digest or bytes(DIGEST_BYTES), self.of(secret)) and digest is not None
