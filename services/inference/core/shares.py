"""How much of a priority class each tenant has had, so that the one that has had least goes next.

Start-time fair queueing: every tenant has a virtual time that rises with what it is given. One that comes
back after a pause starts at the present, so nobody saves up the right to a burst by being idle; one that
waits keeps its place in time, so nobody loses it by being unlucky. A request costs 1, whatever its length.
"""

from collections import Counter


class Shares:
    """The virtual times of one class's tenants, remembered for as long as anybody in the class waits."""

    def __init__(self) -> None:
        self._now = 0.0  # Where a tenant without history starts.
        self._times: dict[str, float] = {}
        self._waiting: Counter[str] = Counter()

    def enter(self, tenant: str) -> None:
        """One more job of `tenant` waits."""
        if not self._waiting[tenant]:
            self._times[tenant] = max(self._now, self._times.get(tenant, 0.0))
        self._waiting[tenant] += 1

    def leave(self, tenant: str) -> None:
        """One job of `tenant` waits no longer."""
        self._waiting[tenant] -= 1
        if not self._waiting[tenant]:
            del self._waiting[tenant]
        if not self._waiting:  # Without contention there is nothing to be fair about.
            self._now = 0.0
            self._times.clear()

    def charge(self, tenant: str) -> None:
        """Count one request that `tenant` is given. It must be waiting."""
        self._now = max(self._now, self._times[tenant])
        self._times[tenant] += 1.0

    def time(self, tenant: str) -> float:
        """Return the virtual time of a tenant that waits. The smallest goes next."""
        return self._times[tenant]
