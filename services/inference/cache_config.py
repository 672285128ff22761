"""Knobs of the cache and of micro-batches."""

from dataclasses import dataclass
from typing import Self

from services.common.config import Environment

TTL_S_MAX = 3600  # So long may an answer be given again.


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    is_on: bool  # If there is a Redis to keep it.
    ttl_s: float
    entry_bytes_max: int
    replay_tokens_per_s: float  # 0: all at once.

    @classmethod
    def read(cls, env: Environment, *, reader_buffer_bytes_max: int) -> Self:
        """What is told again at once must fit into a reader's buffer."""
        return cls(
            is_on=env.flag("OLLAMESH_ANSWER_CACHE", default=True),
            ttl_s=env.seconds("OLLAMESH_CACHE_TTL_S", TTL_S_MAX, low=0.1, high=TTL_S_MAX),
            entry_bytes_max=env.integer(
                "OLLAMESH_CACHE_ENTRY_BYTES_MAX",
                min(256 * 1024, reader_buffer_bytes_max),
                low=1024,
                high=reader_buffer_bytes_max,
            ),
            replay_tokens_per_s=env.number("OLLAMESH_CACHE_REPLAY_TOKENS_PER_S", 0, low=0, high=1_000_000),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatchConfig:
    """How long a text to embed may wait for others to be sent with, and how many are sent together."""

    delay_s: float  # 0: each call is sent by itself.
    texts_max: int

    @classmethod
    def read(cls, env: Environment) -> Self:
        return cls(
            delay_s=env.seconds("OLLAMESH_EMBED_BATCH_DELAY_S", 0.002, low=0, high=1),
            texts_max=env.integer("OLLAMESH_EMBED_BATCH_TEXTS", 64, low=2, high=2048),
        )
