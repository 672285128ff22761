"""Who may try a password now: neither too often at one account, nor from one address.

Whoever guesses at somebody's account slows that account down, and so could keep its owner out; and whoever guesses from
an office's address, or from behind the same balancer, all who are there. So an account at an address from which it was
logged in to is counted apart: neither guesses at it from elsewhere slow it down, nor guesses at others from there.
Accounts and addresses are counted whether they exist or not.

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
        if address is not None and not self._is_known(account, address):
            self._addresses.check(address, now_s=now_s)
        self._accounts.check(self._subject(account, address), now_s=now_s)

    def begin(self, account: str) -> bool:
        """Count an attempt that is about to be made; return whether for its address too. Raises RateLimited."""
        self.check(account)
        now_s, address = self._clock(), self._where()
        is_counted = address is not None and not self._is_known(account, address)
        if address is not None and is_counted:
            self._addresses.attempt(address, now_s=now_s)
        self._accounts.attempt(self._subject(account, address), now_s=now_s)
        return is_counted

    def succeeded(self, account: str, *, was_counted: bool) -> None:
        """The password was right. `was_counted` is what `begin` returned."""
        address = self._where()
        self._accounts.succeeded(self._subject(account, address))
        if address is None:
            return
        if was_counted:
            self._addresses.give_back(address)
        place = _place(account, address)
        self._known[place] = None
        self._known.move_to_end(place)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    def _subject(self, account: str, address: str | None) -> str:
        if address is None or not self._is_known(account, address):
            return account
        return _place(account, address)

    def _is_known(self, account: str, address: str) -> bool:
        return _place(account, address) in self._known


def _place(account: str, address: str) -> str:
    return f"{address} {account}"
