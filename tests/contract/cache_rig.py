"""A cache in a real Redis, and what was counted of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from services.common.seals import Seals
from services.inference.adapters.redis_link import RedisLink
from services.inference.adapters.redis_vault import RedisVault
from services.inference.answer_cache import AnswerCache, Lookup
from services.inference.cache_keeper import Keeper
from services.inference.cache_metrics import CacheMetrics
from services.inference.completion import Started
from services.inference.core.admission import Order
from services.inference.core.asks import Chat, Generate, Message, Options, Role
from services.inference.core.callers import Wishes
from services.inference.core.canonical import canonical
from services.inference.core.secret_names import Names
from services.inference.ports import EndReason, Outcome, Piece

TIMEOUT_S = 2.0  # Generous: what is too slow is tested elsewhere.
SECRET = "s" * 32
KEY, OTHER_KEY = (
    "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
    "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY=",
)
DIGEST = "sha256:1"
STARTED = Started(model="tiny:latest", model_digest=DIGEST, instance="gpu")
OUTCOME = Outcome(
    reason=EndReason.STOP,
    prompt_token_count=3,
    output_token_count=3,
    load_s=0.5,
    prompt_s=0.25,
    output_s=0.125,
    context=(1, 2, 3),
)
PIECES = (
    Piece(thinking="hm", token_count=1),
    Piece(text="he", token_count=1),
    Piece(text="llo, wörld", token_count=1),
)


def order(text: str = "hello", *, model: str = "tiny:latest", temperature: float = 0.0) -> Order:
    ask = Chat(
        model=model,
        messages=(Message(role=Role.USER, content=text),),
        options=Options(temperature=temperature),
    )
    return Order(ask=ask, model=model, options={"num_predict": 100}, keep_alive_s=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    registry: CollectorRegistry
    redis: Redis
    vault: RedisVault
    keeper: Keeper
    metrics: CacheMetrics
    cache: AnswerCache

    async def find(
        self,
        what: Order | None = None,
        *,
        tenant: str = "org-1",
        digest: str = DIGEST,
        wishes: Wishes | None = None,
    ) -> Lookup:
        what = what or order()
        form = canonical(what, model_digest=digest)
        return await self.cache.find(
            tenant, what, canonical=form, model_digest=digest, wishes=wishes or Wishes()
        )

    async def ask(self, what: Order | None = None, *, tenant: str = "org-1", **more: object) -> bool:
        """Ask for an answer, have it generated if need be, and return whether it was there."""
        lookup = await self.find(what, tenant=tenant, **more)  # type: ignore[arg-type]
        if lookup.keeping is not None:
            for piece in PIECES:
                lookup.keeping.write(piece)
            started = replace(STARTED, model_digest=str(more.get("digest", DIGEST)))
            lookup.keeping.finish(started, OUTCOME)
            await self.kept()
        return lookup.cached is not None

    async def kept(self) -> None:
        """Have all kept that waits for it."""
        await self.keeper.drain()

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"ollamesh_cache_{name}_total", labels) or 0

    async def keys(self, pattern: str) -> list[bytes]:
        return sorted(key for key in await self.redis.keys(pattern) if isinstance(key, bytes))

    async def value_keys(self) -> list[bytes]:
        return await self.keys("ollamesh:cache:v:*")

    async def value(self, key: bytes) -> bytes:
        value = await self.redis.get(key)
        assert isinstance(value, bytes)
        return value


@asynccontextmanager
async def rig(
    url: str,
    *,
    keys: tuple[str, ...] = (KEY,),
    secret: str = SECRET,
    kept_s: float = 60.0,
    entry_bytes_max: int = 10_000,
) -> AsyncIterator[Rig]:
    """A replica's cache."""
    registry = CollectorRegistry()
    metrics = CacheMetrics(registry)
    async with RedisLink.opened(url, timeout_s=TIMEOUT_S) as link, Redis.from_url(url) as redis:
        vault = RedisVault(
            link,
            names=Names(secret, purpose="cache"),
            seals=Seals(keys, purpose="cache"),
            kept_s=kept_s,
            alert=metrics.alert,
        )
        keeper = Keeper(vault, metrics)
        yield Rig(
            registry=registry,
            redis=redis,
            vault=vault,
            keeper=keeper,
            metrics=metrics,
            cache=AnswerCache(vault, keeper, metrics, entry_bytes_max=entry_bytes_max),
        )


def generate(text: str) -> Order:
    ask = Generate(model="tiny", prompt=text, options=Options(seed=1))
    return Order(ask=ask, model="tiny:latest", options={}, keep_alive_s=1)
