"""The device grant (RFC 8628): a program without a browser waits until its user has said yes elsewhere.

    PENDING ── approved by a user ──▶ APPROVED ── polled ──▶ REDEEMED (once)
       │  └─── denied ──▶ DENIED
       └────── ten minutes ──▶ over, from any state

A program that asks more often than its interval is told to slow down, and its interval grows: for good (section 3.5).
"""

import re
from dataclasses import dataclass, field, replace
from enum import Enum

LIFETIME_S = 600.0
INTERVAL_S, SLOWER_BY_S = 5.0, 5.0
# A clock's grain and the way here: who keeps to the interval must not be told to slow down.
EARLY_S = 0.5
WAITING_MAX = 1000  # For each client. Whoever is beyond is told to come again.
# Of those, from one address on one replica: a burst, and as many again while they wait.
BEGUN_BURST, BEGUN_PER_S = 50, 50 / LIFETIME_S
# Consonants without those that look like others; no word can be read in them (RFC 8628 section 6.1).
ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"
_USER_CODE = re.compile(f"[{ALPHABET}]{{8}}")


class State(Enum):
    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    REDEEMED = "redeemed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    digest: bytes = field(repr=False)
    user_code_digest: bytes = field(repr=False)
    client_id: str
    scopes: frozenset[str]
    state: State = State.PENDING
    user_id: str | None = None
    interval_s: float = INTERVAL_S
    polled_at_s: float | None = None
    expires_at_s: float


class Reply(Enum):
    """What a poll is told, by RFC 8628's codes."""

    GRANTED = "granted"
    PENDING = "authorization_pending"
    SLOW_DOWN = "slow_down"
    DENIED = "access_denied"
    EXPIRED = "expired_token"
    INVALID = "invalid_grant"


def polled(device: Device, client_id: str, now_s: float) -> tuple[Reply, Device]:
    """What the program is told, and the device afterwards."""
    if device.client_id != client_id or device.state is State.REDEEMED:
        return Reply.INVALID, device
    if now_s >= device.expires_at_s:
        return Reply.EXPIRED, device
    last_s = device.polled_at_s
    device = replace(device, polled_at_s=now_s)
    if device.state is State.DENIED:
        return Reply.DENIED, device
    if device.state is State.APPROVED:
        return Reply.GRANTED, replace(device, state=State.REDEEMED)
    if last_s is not None and now_s < last_s + device.interval_s - EARLY_S:
        return Reply.SLOW_DOWN, replace(device, interval_s=device.interval_s + SLOWER_BY_S)
    return Reply.PENDING, device


def decided(device: Device, user_id: str, now_s: float, *, approved: bool) -> Device | None:
    """The device with its user's answer; None if there is nothing to answer any more."""
    if device.state is not State.PENDING or now_s >= device.expires_at_s:
        return None
    return replace(device, state=State.APPROVED if approved else State.DENIED, user_id=user_id)


def user_code(typed: str) -> str | None:
    """A code as people type it, in its one spelling; None for what cannot be one."""
    letters = "".join(character for character in typed[:64].upper() if character not in " -\t")
    return letters if _USER_CODE.fullmatch(letters) else None
