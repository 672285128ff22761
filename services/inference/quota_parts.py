"""Budgets and streams at once, put together: a branch of the composition root."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

from prometheus_client import CollectorRegistry

from services.common.config import Environment
from services.common.grpc.client import channel
from services.common.grpc.keys import TrustConfig
from services.inference.adapters.auth_bank import AuthBank
from services.inference.adapters.redis_link import RedisLink
from services.inference.adapters.redis_stream_counts import RedisStreamCounts
from services.inference.budget_metrics import BudgetMetrics
from services.inference.budgets import Budgets, WhenAway
from services.inference.core.secret_names import Names
from services.inference.streams_at_once import StreamsAtOnce

REPLICAS_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaConfig:
    """The knobs of quotas."""

    when_away: WhenAway = WhenAway.OPEN  # What becomes of whose slice is spent while auth is away.
    replica_count: int = 1  # Of this service: each allows its share of streams while Redis is away.

    @classmethod
    def read(cls, env: Environment) -> Self:
        when_away = env.text("OLLAMESH_QUOTAS_WHEN_AUTH_AWAY", WhenAway.OPEN.value)
        if when_away not in {each.value for each in WhenAway}:
            env.reject("OLLAMESH_QUOTAS_WHEN_AUTH_AWAY", "is neither open nor closed")
            when_away = WhenAway.OPEN.value
        return cls(
            when_away=WhenAway(when_away),
            replica_count=env.integer("OLLAMESH_INFERENCE_REPLICA_COUNT", 1, low=1, high=REPLICAS_MAX),
        )


@asynccontextmanager
async def opened_budgets(
    config: QuotaConfig,
    trust: TrustConfig,
    redis: RedisLink | None,
    registry: CollectorRegistry,
    *,
    secret_key: str | None,
    process_count: int,
) -> AsyncIterator[Budgets]:
    """Budgets whose last uses are told when the block ends; by then `run` must have ended."""
    at_once = StreamsAtOnce(
        RedisStreamCounts(redis) if redis is not None else None,
        Names(secret_key or secrets.token_hex(32), purpose="quotas"),
        process_id=secrets.token_hex(8),
        share_count=config.replica_count * process_count,
    )
    async with channel(trust.auth_target) as auth:
        budgets = Budgets(AuthBank(auth), at_once, BudgetMetrics(registry), when_away=config.when_away)
        try:
            yield budgets
        finally:
            await budgets.close()
