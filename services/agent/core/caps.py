"""How many there may be of what users keep and start."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """Of each user, but for what says otherwise. Callers that race may come to have a few more."""

    assistants: int = 100
    threads: int = 10_000
    runs_per_thread: int = 1_000  # That are stored.
    runs: int = 64  # That wait or work, wherever; those of batches not counted.
    batch_runs: int = 2_000  # The same, of batches.
