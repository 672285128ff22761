"""How often an account's password may be guessed.

The first attempts are free; then each is followed by a pause that doubles up to a minute, so that an
hour holds fewer than a hundred guesses and nobody is locked out for good. An attempt counts when it
begins, not when it fails: a hundred guesses at once are a hundred guesses.

Bound: `accounts_max` accounts are remembered, those tried last.
"""

from collections import OrderedDict
from dataclasses import dataclass

from services.auth.errors import RateLimited

FREE_COUNT = 10
PAUSE_MAX_S = 60.0
FORGOTTEN_AFTER_S = 900.0


@dataclass(frozen=True, slots=True)
class _Attempts:
    count: int
    last_s: float

    @property
    def paused_until_s(self) -> float:
        beyond = self.count - FREE_COUNT
        return self.last_s + min(2.0 ** min(beyond, 16), PAUSE_MAX_S) if beyond >= 0 else self.last_s


class Throttle:
    def __init__(self, *, accounts_max: int = 10_000) -> None:
        self._accounts_max = accounts_max
        self._attempts: OrderedDict[str, _Attempts] = OrderedDict()

    def check(self, account: str, *, now_s: float) -> None:
        """Raise RateLimited, with the time to wait, while the account pauses."""
        known = self._attempts.get(account)
        if known is not None and now_s < known.paused_until_s:
            raise RateLimited(retry_after_s=known.paused_until_s - now_s)

    def attempt(self, account: str, *, now_s: float) -> None:
        """Count an attempt that is about to be made. Raises RateLimited as `check` does."""
        self.check(account, now_s=now_s)
        known = self._attempts.pop(account, None)
        forgotten = known is None or now_s - known.last_s >= FORGOTTEN_AFTER_S
        self._attempts[account] = _Attempts(1 if known is None or forgotten else known.count + 1, now_s)
        if len(self._attempts) > self._accounts_max:
            self._attempts.popitem(last=False)

    def succeeded(self, account: str) -> None:
        """The password was right: whoever guesses next starts anew."""
        self._attempts.pop(account, None)
