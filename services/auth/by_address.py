"""How often something may be done from one address, where nobody is known yet whom to count instead.

Each replica counts for itself. Bound: so many addresses are remembered, those seen last; and who has no address (the call
did not come through the edge) is not counted.
"""

from collections import OrderedDict
from collections.abc import Callable

from services.auth.core.bucket import Bucket
from services.auth.errors import RateLimited

ADDRESSES_MAX = 10_000


class ByAddress:
    def __init__(
        self, *, per_s: float, burst: int, clock: Callable[[], float], where: Callable[[], str | None]
    ) -> None:
        """`where` says from which address the call at hand comes, if that is known."""
        self._per_s, self._burst, self._clock, self._where = per_s, burst, clock, where
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def take(self) -> None:
        """Count one. Raises RateLimited, with the time to wait."""
        if (address := self._where()) is None:
            return
        bucket = self._buckets.setdefault(address, Bucket(per_s=self._per_s, burst=self._burst))
        self._buckets.move_to_end(address)
        if len(self._buckets) > ADDRESSES_MAX:
            self._buckets.popitem(last=False)
        if (wait_s := bucket.take(self._clock())) is not None:
            raise RateLimited(retry_after_s=wait_s)
