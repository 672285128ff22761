"""Names of streams, which only their owners can use.

A name is signed for the principal that opened the stream. So every replica can tell a stream that is kept no longer
from one that never was, and whose it is, without asking anybody.
"""

import base64
import binascii
import hmac
import secrets

from services.inference.core.callers import Principal

RANDOM_BYTES, SIGNATURE_BYTES = 12, 12


class StreamIds:
    """Makes names and reads them. Replicas that share `secret` know each other's."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"ollamesh\0stream ids", "sha256")

    def make(self, owner: Principal) -> str:
        """Return a new name of 32 letters."""
        body = secrets.token_bytes(RANDOM_BYTES)
        return base64.urlsafe_b64encode(body + self._signature(owner, body)).decode()

    def is_of(self, owner: Principal, stream_id: str) -> bool:
        """Whether it names a stream that `owner` has opened, whether that is kept or not."""
        try:
            raw = base64.b64decode(stream_id, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):  # The latter for what is not ASCII.
            return False
        body, signature = raw[:RANDOM_BYTES], raw[RANDOM_BYTES:]
        return hmac.compare_digest(signature, self._signature(owner, body))

    def _signature(self, owner: Principal, body: bytes) -> bytes:
        # Projects are not part of it: a caller's next token may name another one.
        text = f"{owner.organization_id}\0{owner.user_id}\0".encode()
        return hmac.digest(self._key, text + body, "sha256")[:SIGNATURE_BYTES]
