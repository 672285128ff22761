"""Refresh tokens: what one looks like, and what presenting one means.

A login is a family of tokens that replace each other. Each is 48 bytes: a handle, the same for the whole family, and
a secret of its own. The store keeps digests of both and of the secret before, so every token that ever belonged to a
family is known as one of it, however old, without a row for each.

        current presented ─▶ ROTATE: a new secret; the old one becomes the predecessor
    predecessor presented ─▶ within the grace: REPEAT, the same successor again; later: REUSED
    anything older, or made up by somebody who knows the handle ─▶ REUSED: the family ends

The successor follows from its predecessor and a stored salt. So callers that race with one token, or ask again because
the answer was lost, all get the same successor: there is never a fork in a family. Who has only the store, or only the
key and an old token, cannot compute one.
"""

import base64
import binascii
import hmac
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from services.auth.core.identity import Role

LIFETIME_S = 30 * 86_400.0  # Counted from the login: using it makes it no longer.
GRACE_S = 20.0  # For answers that were lost, and for two processes with one token. 30 at most (A4).
PREFIX = "omr_"  # For those who search logs and repositories for secrets.
HANDLE_BYTES, SECRET_BYTES, SALT_BYTES = 16, 32, 16


@dataclass(frozen=True, slots=True)
class RefreshToken:
    handle: bytes = field(repr=False)
    secret: bytes = field(repr=False)

    def __str__(self) -> str:
        return PREFIX + base64.urlsafe_b64encode(self.handle + self.secret).decode()

    @classmethod
    def read(cls, text: str) -> "RefreshToken | None":
        """None for what cannot be one."""
        if len(text) != len(PREFIX) + 64 or not text.startswith(PREFIX) or not text.isascii():
            return None
        try:
            raw = base64.b64decode(text.removeprefix(PREFIX), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        return cls(raw[:HANDLE_BYTES], raw[HANDLE_BYTES:])


class RefreshDigest:
    """What is kept of tokens, and how the next follows from one."""

    def __init__(self, secret_key: str) -> None:
        self._pepper = hmac.digest(secret_key.encode(), b"ollamesh refresh token 1", "sha256")

    def of(self, part: bytes) -> bytes:
        return hmac.digest(self._pepper, b"kept" + part, "sha256")

    def successor(self, token: RefreshToken, salt: bytes) -> RefreshToken:
        secret = hmac.digest(self._pepper, b"next" + token.handle + token.secret + salt, "sha256")
        return RefreshToken(token.handle, secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A login, as the store knows it."""

    session_id: str  # `sid` in its access tokens.
    handle: bytes = field(repr=False)  # Digests, from here to the salt.
    current: bytes = field(repr=False)
    previous: bytes | None = field(repr=False, default=None)
    salt: bytes = field(repr=False, default=b"")
    generation: int = 1
    user_id: str
    client_id: str
    role_max: Role
    scopes: frozenset[str]
    rotated_at_s: float
    expires_at_s: float
    revoked: bool = False


class Verdict(Enum):
    ROTATE = auto()
    REPEAT = auto()
    REUSED = auto()  # Somebody has a token that was replaced: the family must end.
    OVER = auto()  # Expired or revoked.


def judged(family: Family, presented: bytes, now_s: float) -> Verdict:
    """What it means that a token with this digest is presented."""
    if family.revoked or now_s >= family.expires_at_s:
        return Verdict.OVER
    if hmac.compare_digest(presented, family.current):
        return Verdict.ROTATE
    in_grace = now_s < family.rotated_at_s + GRACE_S
    if family.previous is not None and hmac.compare_digest(presented, family.previous) and in_grace:
        return Verdict.REPEAT
    return Verdict.REUSED


def rotated(family: Family, successor: bytes, salt: bytes, now_s: float) -> Family:
    return replace(
        family,
        current=successor,
        previous=family.current,
        salt=salt,
        generation=family.generation + 1,
        rotated_at_s=now_s,
    )


def ended(family: Family) -> Family:
    return replace(family, revoked=True)
