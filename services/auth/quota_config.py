"""The knobs of quotas and rates."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from services.auth.core.quotas import Kind, Limits, read_limits
from services.common.config import Environment

REPLICAS_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaConfig:
    defaults: Mapping[Kind, Limits] = field(default_factory=dict)  # Where none were set.
    redis_url: str | None = field(default=None, repr=False)  # Where rates are counted; None: each for itself.
    redis_timeout_s: float = 0.04
    replica_count: int = 1  # Of this service: each counts its share while Redis is away.

    @classmethod
    def read(cls, env: Environment) -> Self:
        return cls(
            defaults=_defaults(env),
            redis_url=env.url("REDIS_URL", "redis", "rediss") if env.optional("REDIS_URL") else None,
            redis_timeout_s=env.seconds("OLLAMESH_RATES_REDIS_TIMEOUT_S", 0.04, low=0.005, high=0.05),
            replica_count=env.integer("OLLAMESH_AUTH_REPLICA_COUNT", 1, low=1, high=REPLICAS_MAX),
        )


def _defaults(env: Environment) -> Mapping[Kind, Limits]:
    text = env.optional("OLLAMESH_QUOTAS") or "{}"
    try:
        table = json.loads(text)
    except ValueError:
        table = None
    if not isinstance(table, dict):
        env.reject("OLLAMESH_QUOTAS", "is not a JSON object")
        return {}
    found = {}
    for name, row in table.items():
        if name not in {kind.value for kind in Kind} or not isinstance(row, dict):
            env.reject(
                "OLLAMESH_QUOTAS",
                "has a key that is none of organization, project, api_key, or no object for it",
            )
            continue
        found[Kind(name)], mistakes = read_limits(row)
        for mistake in mistakes:
            env.reject("OLLAMESH_QUOTAS", mistake)
    return found
