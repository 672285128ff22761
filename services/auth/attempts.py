"""Who may try a password now: neither too often at one account, nor from one address.

Whoever guesses at somebody's account slows that account down, and so could keep its owner out. So an address from which
the account was logged in to is counted apart: guesses from elsewhere do not slow it down. Accounts and addresses are
counted whether they exist or not.

The event loop is the lock: what is asked and told here is asked and told without awaiting in between.
"""

from collections import OrderedDict
from collections.abc import Callable

from services.auth.core.throttle import ADDRESS_FREE_COUNT, Throttle

KNOWN_MAX = 10_000


class Attempts:
    """`where` says from which address the call at hand comes, if that is known."""

    def __init__(self, *, clock: Callable[[], float], where: Callable[[], str | None]) -> None:
        self._clock, self._where = clock, where
        self._accounts = Throttle()
        self._addresses = Throttle(free_count=ADDRESS_FREE_COUNT)
        self._known: OrderedDict[str, None] = (
            OrderedDict()
        )  # Accounts with an address that has succeeded, last used.

    def check(self, account: str) -> None:
        """Raises RateLimited. Costs nothing, so ask it before anything that does."""
        now_s, address = self._clock(), self._where()
        if address is not None:
            self._addresses.check(address, now_s=now_s)
        self._accounts.check(self._subject(account, address), now_s=now_s)

    def begin(self, account: str) -> None:
        """Count an attempt that is about to be made. Raises RateLimited."""
        self.check(account)
        now_s, address = self._clock(), self._where()
        if address is not None:
            self._addresses.attempt(address, now_s=now_s)
        self._accounts.attempt(self._subject(account, address), now_s=now_s)

    def succeeded(self, account: str) -> None:
        """The password was right."""
        address = self._where()
        self._accounts.succeeded(self._subject(account, address))
        if address is None:
            return
        self._addresses.give_back(address)
        place = _place(account, address)
        self._known[place] = None
        self._known.move_to_end(place)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    def _subject(self, account: str, address: str | None) -> str:
        place = account if address is None else _place(account, address)
        return place if place in self._known else account


def _place(account: str, address: str) -> str:
    return f"{address} {account}"
