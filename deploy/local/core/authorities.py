"""Decides which authority signs and which are trusted, so that none has to be changed in one step everywhere.

    announced     everybody trusts it, nobody uses it yet       for `announced_s`
    signing       the newest that was announced for so long
    outgoing      what it signed is still in use                 for one lifetime of a certificate
    gone          nobody trusts it any more

Whoever is slow to learn of a new authority has `announced_s` for it; whoever holds on to an old certificate has that
certificate's whole life.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Authority:
    name: str
    made_at_s: float
    expires_at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    leaf_s: float  # How long a service's certificate is good for.
    authority_s: float
    announced_s: float

    @property
    def renew_after_s(self) -> float:
        """Half of it is left for whatever keeps a renewal from happening."""
        return self.leaf_s / 2


@dataclass(frozen=True, slots=True)
class Roles:
    make: bool  # There must be another one.
    signer: str | None  # None only if there is none.
    trusted: tuple[str, ...]  # The oldest first.
    gone: tuple[str, ...]


def roles(authorities: Iterable[Authority], pace: Pace, now_s: float) -> Roles:
    found = sorted(authorities, key=lambda one: (one.made_at_s, one.name))
    living = [one for one in found if one.expires_at_s > now_s]
    announced = [one for one in living if one.made_at_s + pace.announced_s <= now_s]
    # A first one signs at once: nobody could do anything before.
    signer = announced[-1] if announced else living[0] if living else None
    trusted = [one for one in living if signer is not None and _in_use(one, signer, pace, now_s)]
    return Roles(
        make=not living or living[-1].made_at_s + pace.authority_s / 2 <= now_s,
        signer=signer.name if signer else None,
        trusted=tuple(one.name for one in trusted),
        gone=tuple(one.name for one in found if one not in trusted),
    )


def _in_use(one: Authority, signer: Authority, pace: Pace, now_s: float) -> bool:
    outgoing_until_s = signer.made_at_s + pace.announced_s + pace.leaf_s
    return one.made_at_s >= signer.made_at_s or now_s < outgoing_until_s
