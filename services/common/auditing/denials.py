"""Refusals for the trail: each kind once at once, and what repeats it within a second as a number.

Refusals are the one kind of event that strangers can make as many of as they like. So what a second of them may add is
bounded: by the kinds that are told apart, and not by the calls.
"""

import asyncio
from collections import Counter
from dataclasses import replace

from services.common.audit import Action, Happened, Outcome, Trail

WINDOW_S = 1.0
KINDS_MAX = 200  # In one window; those beyond it are told as one.


class Denials:
    def __init__(self, trail: Trail) -> None:
        self._trail = trail
        self._repeated: Counter[tuple[str, str, str, str]] = Counter()  # Beyond the first of each kind.
        self._known: set[tuple[str, str, str, str]] = set()

    def note(self, *, object: str, reason: str, user_id: str = "", organization_id: str = "") -> None:  # noqa: A002
        kind = (object, reason, user_id, organization_id)
        if kind in self._known:
            self._repeated[kind] += 1
            return
        if len(self._known) >= KINDS_MAX:
            self._repeated["", "", "", ""] += 1
            return
        if not self._known:
            asyncio.get_running_loop().call_later(WINDOW_S, self._end_window)
        self._known.add(kind)
        self._trail.note(_happened(kind))

    def _end_window(self) -> None:
        for kind, count in self._repeated.items():
            self._trail.note(replace(_happened(kind), details={"count": str(count)}))
        self._repeated.clear()
        self._known.clear()


def _happened(kind: tuple[str, str, str, str]) -> Happened:
    what, reason, user_id, organization_id = kind
    return Happened(
        action=Action.ACCESS_DENIED,
        outcome=Outcome.DENIED,
        user_id=user_id,
        organization_id=organization_id,
        object=what,
        reason=reason,
    )
