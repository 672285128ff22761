"""Vectors, from the cache or from an instance."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.inference.core.admission import Order
from services.inference.core.asks import Embed
from services.inference.core.callers import CachePolicy
from services.inference.core.ledger import Card
from services.inference.core.parts import token_count
from services.inference.engine import Terms
from services.inference.micro_batches import MicroBatches
from services.inference.vector_cache import Vector, VectorCache, Vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One vector per text, in order."""

    vectors: Sequence[Sequence[float]]
    model: str  # In its instance's spelling.
    prompt_token_count: int  # Of all texts, however their vectors were come by.
    cached_count: int
    placed_at_s: float | None = None  # When an instance began with those that are not; None if all are.
    gpu_s: float = 0.0  # How long it worked for them.


class Embeddings:
    """Asks the cache once for all texts of a call, and an instance for those that are not there."""

    def __init__(self, batches: MicroBatches, cache: VectorCache | None) -> None:
        self._batches = batches
        self._cache = cache

    async def embed(self, order: Order, terms: Terms, *, card: Card, policy: CachePolicy) -> Answer:
        """Answer an Embed that was admitted. `card` is the fleet's of its model. Raises why there are no vectors."""
        ask = order.ask
        assert isinstance(ask, Embed)
        known = Vectors(found=[None] * len(ask.inputs))
        if self._cache is not None:
            known = await self._cache.find(terms.tenant, order, model_digest=card.digest, policy=policy)
        missing = [place for place, vector in enumerate(known.found) if vector is None]
        if not missing:
            return _answer(known.found, card.name, cached_count=len(ask.inputs))
        embedded = await self._batches.embed(_only(order, ask, missing), terms)
        if embedded.model_digest != card.digest and len(missing) < len(ask.inputs):
            # The tag has moved, or instances disagree on it. Vectors of two models have nothing to do with each other.
            missing = list(range(len(ask.inputs)))
            embedded = await self._batches.embed(order, terms)
        made = dict(zip(missing, map(Vector, embedded.vectors, embedded.token_counts), strict=True))
        if self._cache is not None and known.place is not None and embedded.model_digest == card.digest:
            self._cache.keep(known.place, [(known.names[place], vector) for place, vector in made.items()])
        whole = [made.get(place, vector) for place, vector in enumerate(known.found)]
        answer = _answer(whole, embedded.model, cached_count=len(whole) - len(made))
        return replace(answer, placed_at_s=embedded.placed_at_s, gpu_s=embedded.gpu_s)


def _answer(vectors: Sequence[Vector | None], model: str, *, cached_count: int) -> Answer:
    whole = [vector for vector in vectors if vector is not None]
    assert len(whole) == len(vectors)
    return Answer(
        vectors=[vector.numbers for vector in whole],
        model=model,
        prompt_token_count=sum(vector.token_count for vector in whole),
        cached_count=cached_count,
    )


def _only(order: Order, ask: Embed, places: Sequence[int]) -> Order:
    """An order for some of an Embed's texts."""
    if len(places) == len(ask.inputs):
        return order
    inputs = tuple(ask.inputs[place] for place in places)
    return replace(order, ask=replace(ask, inputs=inputs), prompt_token_count=sum(map(token_count, inputs)))
