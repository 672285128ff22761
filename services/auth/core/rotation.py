"""When a signing key follows another, and what that makes of those before it. Pure: no clock, no store.

Invariants: a key that follows as planned is published for LEAD_S before it signs, so that all who cache the published
keys know it by then; the one before signs until that very moment, so there is always one that signs; at most one key
is pending. In an emergency there is no lead and no after: the new key signs at once, and every other is gone.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from services.auth.core.keys import CLOCK_SKEW_S, Phase, Term, phase

# 5 s in which Envoy does not look (deploy/envoy/tokens.py), 15 s another replica (keyring.py), 20 s a service
# (services/common/grpc/keys.py): they look at the same time. 30 s that clocks may differ by, and some to spare.
LEAD_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a rotation comes to. `new` is to be made unless it exists, `changed` and `removed` are others."""

    new: Term
    exists: bool = False
    changed: tuple[Term, ...] = ()
    removed: tuple[str, ...] = ()  # Key ids: no token of theirs is good any more.


def due(terms: Iterable[Term], now_s: float, *, every_s: float, lead_s: float = LEAD_S) -> bool:
    """Whether it is time to make the next key, which signs `lead_s` later. `every_s` 0: never by itself."""
    newest = _newest(terms)
    if newest is None or every_s <= 0 or phase(newest, now_s) is not Phase.ACTIVE:
        return False
    # The first key's time lies before all others; it signs since it was made.
    return now_s >= max(newest.active_from_s, newest.made_at_s) + every_s - lead_s


def planned(terms: Iterable[Term], key_id: str, now_s: float, *, lead_s: float = LEAD_S) -> Plan:
    """A new key, or the one that is pending already: one rotation at a time."""
    found = list(terms)
    newest = _newest(found)
    if newest is not None and phase(newest, now_s) is Phase.PENDING:
        return Plan(new=newest, exists=True)
    new = Term(key_id=key_id, active_from_s=now_s + lead_s, made_at_s=now_s)
    signs = [term for term in found if term.retired_from_s is None]
    return Plan(new=new, changed=tuple(replace(term, retired_from_s=new.active_from_s) for term in signs))


def emergency(terms: Iterable[Term], key_id: str, now_s: float) -> Plan:
    """A new key that signs now; whoever has one of the others has nothing."""
    return Plan(
        # It must sign by every replica's clock, for nothing else does.
        new=Term(key_id=key_id, active_from_s=now_s - CLOCK_SKEW_S, made_at_s=now_s),
        removed=tuple(term.key_id for term in terms),
    )


def _newest(terms: Iterable[Term]) -> Term | None:
    return max(terms, key=lambda term: (term.active_from_s, term.key_id), default=None)
