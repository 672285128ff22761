"""The knobs of batches."""

from dataclasses import dataclass
from typing import Self

from services.common.config import Environment


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """Of each process, where nothing else is said."""

    workers: int  # Items at work at once; 0 leaves them to other processes.
    lease_s: float  # How long an item waits for a process that was killed.
    bytes_max: int  # Of one batch.
    open_max: int  # Batches of one organisation that have not ended.
    sweep_every_s: float
    file_bytes_max: int  # Of all files of one organisation.

    @classmethod
    def read(cls, env: Environment) -> Self:
        return cls(
            workers=env.integer("OLLAMESH_BATCH_WORKERS", 4, high=1000),
            lease_s=env.seconds("OLLAMESH_BATCH_LEASE_S", 30, low=0.5, high=3600),
            bytes_max=env.integer("OLLAMESH_BATCH_BYTES_MAX", 32 * 1024 * 1024, low=1024, high=2**30),
            open_max=env.integer("OLLAMESH_BATCHES_OPEN_MAX", 100, low=1, high=10_000),
            file_bytes_max=env.integer("OLLAMESH_BATCH_FILES_BYTES_MAX", 2**30, low=1024, high=2**50),
            sweep_every_s=env.seconds("OLLAMESH_BATCH_SWEEP_EVERY_S", 15, low=0.05, high=3600),
        )
