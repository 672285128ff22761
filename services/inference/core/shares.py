"""How much of a priority class each tenant has had, so that the one that has had least goes next.

Start-time fair queueing (Goyal, Vin, Cheng 1996) over GPU-seconds: every tenant has a virtual time that rises
with what it is given, divided by its weight. One that comes back after a pause starts at the present, so
nobody saves up the right to a burst by being idle; one that waits keeps its place in time, so nobody loses it
by being unlucky. What a job costs is known only when it ends: it is charged as predicted, and corrected.
"""

from collections import Counter

from services.inference.core.policy import Policy

_SLACK_COUNT = 64


class Shares:
    """The virtual times of one class's tenants, remembered for as long as anybody in the class waits."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._now = 0.0  # Where a tenant without history starts.
        self._times: dict[str, float] = {}
        self._waiting: Counter[str] = Counter()
        self._prune_above = _SLACK_COUNT

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
        elif len(self._times) > self._prune_above:
            self._prune()

    def charge(self, tenant: str, gpu_s: float) -> None:
        """Count what the job that `tenant` is given will cost. It must be waiting."""
        self._now = max(self._now, self._times[tenant])
        self._times[tenant] += gpu_s / self._policy.weight(tenant)

    def correct(self, tenant: str, gpu_s: float) -> bool:
        """Add what a job cost more than it was charged; return whether that makes its tenant's turn earlier."""
        if tenant in self._times:
            self._times[tenant] += gpu_s / self._policy.weight(tenant)
        return gpu_s < 0 and tenant in self._waiting

    def time(self, tenant: str) -> float:
        """Return the virtual time of a tenant that waits. The smallest goes next."""
        return self._times[tenant]

    def start(self, tenant: str) -> float:
        """Return the virtual time at which a job of `tenant` would start to wait now."""
        time = self._times.get(tenant, 0.0)
        return time if tenant in self._waiting else max(self._now, time)

    def _prune(self) -> None:
        """Forget those whom the present has caught up with: they would start there anyway."""
        self._times = {
            tenant: time
            for tenant, time in self._times.items()
            if time > self._now or tenant in self._waiting
        }
        self._prune_above = 2 * len(self._times) + _SLACK_COUNT
