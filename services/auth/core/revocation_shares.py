"""How many entries one user may have in the list of what is revoked, so that nobody fills it for all.

The list has a bound (services/common/revoked.py), and beyond it everybody has to log in anew. So a user who revokes token
after token gets, beyond their share, one entry that covers all their tokens up to now: only they have to log in anew.

Counted by each replica for itself, over the time for which an entry is kept. Bound: `owners_max`, those that revoked last.
"""

from collections import OrderedDict

SHARE = 2000
OWNERS_MAX = 10_000


class Shares:
    def __init__(self, *, window_s: float, share: int = SHARE, owners_max: int = OWNERS_MAX) -> None:
        self._window_s, self._share, self._owners_max = window_s, share, owners_max
        self._counted: OrderedDict[str, tuple[float, int]] = OrderedDict()  # Since when, and how many.

    def takes_one(self, owner: str, now_s: float) -> bool:
        """Count an entry of `owner`; whether it is within their share."""
        since_s, count = self._counted.pop(owner, (now_s, 0))
        if now_s - since_s >= self._window_s:
            since_s, count = now_s, 0
        self._counted[owner] = since_s, count + 1
        if len(self._counted) > self._owners_max:
            self._counted.popitem(last=False)
        return count < self._share
