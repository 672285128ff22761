"""Summaries of threads, as they are kept for the runs to come."""

from dataclasses import dataclass
from typing import Protocol

from services.agent.core.ids import RunId


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    text: str
    newer_count: int  # Of the messages that earlier runs said, how many it does not cover: the newest.


class Summaries(Protocol):
    """One for each thread. Every method raises StoreFailure when the store does not answer."""

    async def find(self, run_id: RunId) -> Kept | None:
        """The summary of the run's thread, as the run is to read it."""
        ...

    async def keep(self, run_id: RunId, kept: Kept) -> None:
        """Have later runs of the thread read it. One that covers more stays."""
        ...
