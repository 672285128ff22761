"""The cache, put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from services.common.redis_metrics import RedisMetrics
from services.common.seals import Seals
from services.inference.adapters.redis_link import RedisLink
from services.inference.adapters.redis_vault import RedisVault
from services.inference.answer_cache import AnswerCache
from services.inference.cache_keeper import Keeper
from services.inference.cache_metrics import CacheMetrics
from services.inference.config import Config
from services.inference.core.secret_names import Names
from services.inference.vector_cache import VectorCache


@dataclass(frozen=True, slots=True)
class Caches:
    """What is kept of answers and vectors. `keeper.run` must run."""

    answers: AnswerCache
    vectors: VectorCache
    keeper: Keeper


def caches(config: Config, link: RedisLink | None, registry: CollectorRegistry) -> Caches | None:
    """Return the cache in the Redis that `link` leads to; None if there is none, or it is switched off."""
    if link is None or config.shared is None or not config.cache.is_on:
        return None
    metrics = CacheMetrics(registry)
    vault = RedisVault(
        link,
        names=Names(config.shared.secret_key, purpose="cache"),
        seals=Seals(config.shared.encryption_keys, purpose="cache"),
        kept_s=config.cache.ttl_s,
        alert=metrics.alert,
    )
    keeper = Keeper(vault, metrics)
    answers = AnswerCache(vault, keeper, metrics, entry_bytes_max=config.cache.entry_bytes_max)
    return Caches(answers, VectorCache(vault, keeper, metrics), keeper)


@asynccontextmanager
async def shared_redis(config: Config, registry: CollectorRegistry) -> AsyncIterator[RedisLink | None]:
    """The link to the Redis that the replicas share, if there is one. Its `run` must run."""
    if config.shared is None:
        yield None
        return
    async with RedisLink.opened(
        config.shared.redis_url, timeout_s=config.shared.timeout_s, metrics=RedisMetrics(registry)
    ) as link:
        yield link
