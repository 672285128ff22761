"""How much is kept of streams, how long, and how current."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of what is kept."""

    kept_s: float = 600.0
    log_bytes_max: int = 1 << 20  # Of one stream.
    memory_bytes_max: int = 16 << 20  # Of those that have ended and are kept here.
    write_every_s: float = 0.2
