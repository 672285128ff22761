"""Vectors of two models are never in one answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import pytest

from services.inference.cache_keeper import Place
from services.inference.core.admission import Order
from services.inference.core.asks import Embed
from services.inference.core.callers import CachePolicy
from services.inference.core.jobs import Priority
from services.inference.core.ledger import Card
from services.inference.embeddings import Embeddings
from services.inference.engine import Terms
from services.inference.micro_batches import Embedded, MicroBatches
from services.inference.vault import Epochs
from services.inference.vector_cache import Vector, VectorCache, Vectors

TERMS = Terms(tenant="org-1", priority=Priority.DEFAULT, wait_max_s=1, total_max_s=1, run_max_s=1)
PLACE = Place(
    operation="embeddings", tenant="org-1", model="tiny:latest", epochs=Epochs(b"", b"", are_new=False)
)


@dataclass
class Fleet:
    """Answers with the weights that it has now."""

    digest: str
    asked: list[tuple[str, ...]] = field(default_factory=list)

    async def embed(self, order: Order, terms: Terms) -> Embedded:
        assert isinstance(order.ask, Embed)
        texts = order.ask.inputs
        self.asked.append(texts)
        return Embedded(
            vectors=[[float(self.digest)]] * len(texts),
            token_counts=[1] * len(texts),
            model="tiny:latest",
            model_digest=self.digest,
            placed_at_s=0.0,
            gpu_s=0.0,
        )


@dataclass
class Cache:
    """Has the vectors of some texts."""

    has: dict[str, Vector]
    kept: dict[bytes, Vector] = field(default_factory=dict)

    async def find(self, tenant: str, order: Order, *, model_digest: str, policy: CachePolicy) -> Vectors:
        assert isinstance(order.ask, Embed)
        texts = order.ask.inputs
        return Vectors(
            found=[self.has.get(text) for text in texts], place=PLACE, names=[text.encode() for text in texts]
        )

    def keep(self, place: Place, made: Sequence[tuple[bytes, Vector]]) -> None:
        self.kept.update(made)


async def embed(fleet: Fleet, cache: Cache, *texts: str) -> tuple[list[Sequence[float]], int, int]:
    order = Order(ask=Embed(model="tiny", inputs=texts), model="tiny:latest", options={}, keep_alive_s=1)
    embeddings = Embeddings(cast("MicroBatches", fleet), cast("VectorCache", cache))
    answer = await embeddings.embed(
        order, TERMS, card=Card(name="tiny:latest", digest="1"), policy=CachePolicy.DETERMINISTIC
    )
    return list(answer.vectors), answer.prompt_token_count, answer.cached_count


async def test_only_what_is_missing_is_asked_for_and_kept() -> None:
    fleet, cache = Fleet("1"), Cache({"b": Vector([9.0], 5)})
    assert await embed(fleet, cache, "a", "b", "c") == ([[1.0], [9.0], [1.0]], 7, 1)
    assert fleet.asked == [("a", "c")]
    assert cache.kept == {b"a": Vector([1.0], 1), b"c": Vector([1.0], 1)}


@pytest.mark.parametrize(("texts", "asked"), [(("a", "b"), [("a",), ("a", "b")]), (("a",), [("a",)])])
async def test_if_the_tag_has_moved_all_is_made_anew_and_not_kept(
    texts: tuple[str, ...], asked: list[tuple[str, ...]]
) -> None:
    fleet, cache = Fleet("2"), Cache({"b": Vector([9.0], 5)})
    assert await embed(fleet, cache, *texts) == ([[2.0]] * len(texts), len(texts), 0)
    assert fleet.asked == asked
    assert cache.kept == {}
