"""When keys were used: on the audit trail, and in the store for their owners to see.

Once a minute for each key and replica, so that a busy key fills neither; and never while a request waits.
"""

import asyncio
import time
from collections import OrderedDict
from contextlib import suppress

from services.auth.api_keys import ApiKeyStore
from services.auth.core.api_keys import ApiKey
from services.auth.ports import Clock
from services.auth.telemetry import KeyMetrics
from services.common.audit import Action, Happened, Outcome, Trail
from services.common.errors import StoreFailure

NOTED_EVERY_S = 60.0
KEYS_MAX = 10_000  # Those used last; who is forgotten is noted again.
WRITTEN_EVERY_S = 5.0
WRITTEN_AT_ONCE = 1000


class KeyUses:
    """`run` writes what was noted, for as long as the service runs."""

    def __init__(
        self,
        store: ApiKeyStore,
        trail: Trail,
        metrics: KeyMetrics,
        *,
        clock: Clock = time,
    ) -> None:
        self._store, self._trail, self._metrics, self._clock = store, trail, metrics, clock
        self._noted: OrderedDict[tuple[str, Outcome], float] = OrderedDict()
        self._unwritten: dict[str, float] = {}

    def checked(self, outcome: str) -> None:
        """Count what became of a question; each of them, whoever asked."""
        self._metrics.checked(outcome)

    def note(self, key: ApiKey, outcome: Outcome) -> None:
        """Somebody came with the key, and was let in or not."""
        now_s, what = self._clock.monotonic(), (key.key_id, outcome)
        if now_s - self._noted.get(what, float("-inf")) < NOTED_EVERY_S:
            return
        self._noted[what] = now_s
        self._noted.move_to_end(what)
        if len(self._noted) > KEYS_MAX:
            self._noted.popitem(last=False)
        happened = Happened(
            action=Action.API_KEY_USED,
            outcome=outcome,
            user_id=key.user_id,
            organization_id=key.organization_id,
            object=f"api_key/{key.key_id}",
        )
        self._trail.note(happened)
        if outcome is Outcome.ALLOWED and (len(self._unwritten) < KEYS_MAX or key.key_id in self._unwritten):
            self._unwritten[key.key_id] = self._clock.time()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(WRITTEN_EVERY_S)
            with suppress(StoreFailure):  # Then next time.
                await self.write()

    async def write(self) -> None:
        """Raises StoreFailure, and keeps what was not written."""
        times = list(self._unwritten.items())[:WRITTEN_AT_ONCE]
        if times:
            await self._store.used(times)
        for key_id, at_s in times:
            if self._unwritten.get(key_id) == at_s:
                del self._unwritten[key_id]
