"""How often passwords may be guessed: at an account, or from an address.

The first attempts are free; then each is followed by a pause that doubles up to a minute, so that an
hour holds fewer than a hundred guesses and nobody is locked out for good. An attempt counts when it
begins, not when it fails: a hundred guesses at once are a hundred guesses.

Bound: `subjects_max` accounts or addresses are remembered, those tried last.
"""

from collections import OrderedDict
from dataclasses import dataclass

from services.auth.errors import RateLimited

FREE_COUNT = 10
# Behind one address there may be a whole office, whose logins succeed and are given back.
ADDRESS_FREE_COUNT = 50
PAUSE_MAX_S = 60.0
FORGOTTEN_AFTER_S = 900.0


@dataclass(frozen=True, slots=True)
class _Attempts:
    count: int
    last_s: float


def pause_s(count: int, free_count: int) -> float:
    """How long to wait after that many attempts."""
    beyond = count - free_count
    return min(2.0 ** min(beyond, 16), PAUSE_MAX_S) if beyond >= 0 else 0.0


class Throttle:
    def __init__(self, *, free_count: int = FREE_COUNT, subjects_max: int = 10_000) -> None:
        self._free_count, self._subjects_max = free_count, subjects_max
        self._attempts: OrderedDict[str, _Attempts] = OrderedDict()

    def check(self, subject: str, *, now_s: float) -> None:
        """Raise RateLimited, with the time to wait, while the subject pauses."""
        known = self._attempts.get(subject)
        if known is None:
            return
        until_s = known.last_s + pause_s(known.count, self._free_count)
        if now_s < until_s:
            raise RateLimited(retry_after_s=until_s - now_s)

    def attempt(self, subject: str, *, now_s: float) -> None:
        """Count an attempt that is about to be made. Raises RateLimited as `check` does."""
        self.check(subject, now_s=now_s)
        known = self._attempts.pop(subject, None)
        forgotten = known is None or now_s - known.last_s >= FORGOTTEN_AFTER_S
        self._attempts[subject] = _Attempts(1 if known is None or forgotten else known.count + 1, now_s)
        if len(self._attempts) > self._subjects_max:
            self._attempts.popitem(last=False)

    def succeeded(self, subject: str) -> None:
        """The password was right: whoever guesses next starts anew."""
        self._attempts.pop(subject, None)

    def give_back(self, subject: str) -> None:
        """One attempt was no guess. The others still count: one right password does not excuse a hundred wrong ones."""
        if (known := self._attempts.get(subject)) is not None:
            self._attempts[subject] = _Attempts(max(0, known.count - 1), known.last_s)
