"""Puts things into the vault behind everybody's back: nobody waits for it, and what it cannot keep up with is dropped."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from services.inference.cache_metrics import CacheMetrics, Drop
from services.inference.vault import Epochs, Vault, VaultAway

WAITING_MAX = 256
WAITING_BYTES_MAX = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where something may be kept, as it was when it was looked for."""

    operation: str
    tenant: str
    model: str
    epochs: Epochs


@dataclass(frozen=True, slots=True)
class _Parcel:
    place: Place
    values: Sequence[tuple[bytes, bytes]]
    byte_count: int


class Keeper:
    """Keeps values in the order in which they came. Its `run` must run."""

    def __init__(self, vault: Vault, metrics: CacheMetrics) -> None:
        self._vault = vault
        self._metrics = metrics
        self._parcels: deque[_Parcel] = deque()
        self._byte_count = 0
        self._some = asyncio.Event()

    def keep(self, place: Place, values: Sequence[tuple[bytes, bytes]]) -> None:
        """Have values kept by name, some time soon, or never."""
        parcel = _Parcel(place, values, sum(len(value) for _, value in values))
        if len(self._parcels) >= WAITING_MAX or self._byte_count + parcel.byte_count > WAITING_BYTES_MAX:
            self._metrics.dropped(place.operation, Drop.FULL, len(values))
            return
        self._parcels.append(parcel)
        self._byte_count += parcel.byte_count
        self._some.set()

    async def run(self) -> None:
        """Keep what comes, until cancelled."""
        while True:
            await self._some.wait()
            self._some.clear()
            await self.drain()

    async def drain(self) -> None:
        """Keep what waits. Not while `run` runs."""
        while self._parcels:
            await self._put(self._parcels[0])
            self._byte_count -= self._parcels.popleft().byte_count

    async def _put(self, parcel: _Parcel) -> None:
        place, count = parcel.place, len(parcel.values)
        try:
            kept = await self._vault.keep(place.tenant, place.model, place.epochs, parcel.values)
        except VaultAway:
            self._metrics.dropped(place.operation, Drop.AWAY, count)
            return
        if kept:
            self._metrics.kept(place.operation, count)
        else:
            self._metrics.dropped(place.operation, Drop.PURGED, count)
