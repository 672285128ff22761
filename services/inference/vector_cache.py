"""Vectors that were made before, text by text: what a call asks for need not have been asked for by one call.

Weights always make the same vector of the same text, so no caller has to ask for it.
"""

import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from services.inference.cache_keeper import Keeper, Place
from services.inference.cache_metrics import CacheMetrics, Result
from services.inference.core.admission import Order
from services.inference.core.asks import Embed
from services.inference.core.callers import CachePolicy
from services.inference.core.canonical import canonical
from services.inference.vault import Vault, VaultAway

OPERATION = "embeddings"
FORM = 1
# A question about more of them would keep everybody else's waiting.
TEXTS_MAX = 512
_COUNT_BYTES = 4


class Vector(NamedTuple):
    """What a text became, and how many tokens it was."""

    numbers: Sequence[float]
    token_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """What is known of a call's texts, in their order. Without a `place`, what is missing cannot be kept."""

    found: Sequence[Vector | None]
    place: Place | None = None
    names: Sequence[bytes] = ()


class VectorCache:
    """Looks vectors up by text. The keeper's `run` must run."""

    def __init__(self, vault: Vault, keeper: Keeper, metrics: CacheMetrics) -> None:
        self._vault = vault
        self._keeper = keeper
        self._metrics = metrics

    async def find(self, tenant: str, order: Order, *, model_digest: str, policy: CachePolicy) -> Vectors:
        """Look for the vectors of an Embed that was admitted."""
        assert isinstance(order.ask, Embed)
        texts = order.ask.inputs
        nothing = Vectors(found=[None] * len(texts))
        if policy is CachePolicy.NEVER or not model_digest or len(texts) > TEXTS_MAX:
            self._metrics.looked(OPERATION, Result.BYPASS, len(texts))
            return nothing
        names = _names(order, order.ask, model_digest)
        try:
            kept = await self._vault.find(tenant, order.model, names)
        except VaultAway:
            self._metrics.looked(OPERATION, Result.ERROR, len(texts))
            return nothing
        found = [None if value is None else _decoded(value) for value in kept.values]
        miss_count = found.count(None)
        self._metrics.looked(OPERATION, Result.HIT, len(texts) - miss_count)
        self._metrics.looked(OPERATION, Result.MISS, miss_count)
        place = Place(operation=OPERATION, tenant=tenant, model=order.model, epochs=kept.epochs)
        return Vectors(found=found, place=place, names=names)

    def keep(self, place: Place, made: Sequence[tuple[bytes, Vector]]) -> None:
        """Have vectors kept by the names of their texts."""
        self._keeper.keep(place, [(name, _encoded(vector)) for name, vector in made])


def _names(order: Order, ask: Embed, model_digest: str) -> list[bytes]:
    """All that their vectors depend on: what texts of a call have in common, and then the text."""
    common = canonical(replace(order, ask=replace(ask, inputs=())), model_digest=model_digest)
    start = f"vector\0{FORM}\0{order.model}\0{len(common)}\0".encode() + common
    return [start + text.encode(errors="surrogatepass") for text in ask.inputs]


def _encoded(vector: Vector) -> bytes:
    """As on the wire to the caller: single precision."""
    numbers = array("f", vector.numbers)
    if sys.byteorder == "big":
        numbers.byteswap()
    return vector.token_count.to_bytes(_COUNT_BYTES, "little") + numbers.tobytes()


def _decoded(value: bytes) -> Vector:
    numbers = array("f", value[_COUNT_BYTES:])
    if sys.byteorder == "big":
        numbers.byteswap()
    return Vector(numbers, int.from_bytes(value[:_COUNT_BYTES], "little"))
