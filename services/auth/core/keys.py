"""The life of a signing key: pending, active, retired, gone. Times decide, so replicas agree.

A verifier that has cached the published keys learns of a new one late; a token outlives the moment its
key stops signing. So a key is published before it signs and after it has signed for the last time:

    pending --active_from_s--> active --retired_from_s--> retired --+ KEPT_S--> gone
    (published)                (published, signs)         (published)

Invariants: at any time at most one key signs, the newest active one; a key that signs is published; a
retired key is published until the last token it signed has expired everywhere.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from services.auth.core.claims import LIFETIME_MAX_S

CLOCK_SKEW_S = 30  # As the verifiers allow.
KEPT_S = LIFETIME_MAX_S + CLOCK_SKEW_S


class Phase(Enum):
    PENDING = auto()
    ACTIVE = auto()
    RETIRED = auto()
    GONE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """When a key may do what, in seconds since the epoch."""

    key_id: str
    active_from_s: float
    retired_from_s: float | None = None  # None: no successor yet.
    made_at_s: float = field(default=0.0, compare=False)  # For people; what it may do does not depend on it.


def first_term(key_id: str) -> Term:
    """The very first key signs at once: nobody can have cached its predecessors."""
    return Term(key_id=key_id, active_from_s=0.0)


def phase(term: Term, now_s: float) -> Phase:
    if now_s < term.active_from_s:
        return Phase.PENDING
    if term.retired_from_s is None or now_s < term.retired_from_s:
        return Phase.ACTIVE
    return Phase.RETIRED if now_s < term.retired_from_s + KEPT_S else Phase.GONE


def signing(terms: Iterable[Term], now_s: float) -> Term | None:
    """The one that signs now, if any does."""
    active = (term for term in terms if phase(term, now_s) is Phase.ACTIVE)
    return max(active, key=lambda term: (term.active_from_s, term.key_id), default=None)


def published(terms: Iterable[Term], now_s: float) -> list[Term]:
    """Those that verifiers must know now."""
    return [term for term in terms if phase(term, now_s) is not Phase.GONE]
