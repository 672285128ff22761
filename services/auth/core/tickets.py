"""What a page's form carries from one step to the next, so that the server need not remember it.

Signed, and good for ten minutes and in one browser only: the one that holds the cookie whose digest is in it. It is
no secret: the person whose page it is can read it. A ticket of one purpose is none for another.
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping

LIFETIME_S = 600
LENGTH_MAX = 12_288

Contents = Mapping[str, object]


class Tickets:
    def __init__(self, secret_key: str) -> None:
        self._key = hmac.digest(secret_key.encode(), b"ollamesh page ticket 1", "sha256")

    def write(self, purpose: str, contents: Contents, *, nonce: str, now_s: float) -> str:
        sealed = {"for": purpose, "in": _digest(nonce), "until": int(now_s) + LIFETIME_S, "what": contents}
        body = base64.urlsafe_b64encode(json.dumps(sealed, separators=(",", ":")).encode())
        return f"{body.decode()}.{self._signature(body)}"

    def read(self, purpose: str, ticket: str, *, nonce: str, now_s: float) -> Contents | None:
        """None for whatever this key did not sign for this purpose and this browser, or too long ago."""
        body, _, signature = ticket.partition(".")
        if len(ticket) > LENGTH_MAX or not ticket.isascii():
            return None
        if not hmac.compare_digest(signature, self._signature(body.encode())):
            return None
        try:
            sealed = json.loads(base64.b64decode(body, altchars=b"-_", validate=True))
        except (binascii.Error, ValueError):  # Only after a change of format: the signature is ours.
            return None
        if sealed["for"] != purpose or sealed["in"] != _digest(nonce) or now_s >= sealed["until"]:
            return None
        contents: Contents = sealed["what"]
        return contents

    def _signature(self, body: bytes) -> str:
        return base64.urlsafe_b64encode(hmac.digest(self._key, body, "sha256")).decode()


def _digest(nonce: str) -> str:
    return hashlib.sha256(nonce.encode()).hexdigest()
