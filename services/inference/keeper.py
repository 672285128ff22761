"""Who has models loaded and unloaded on somebody's word: the scheduler, which is told what is wanted.

Nothing is loaded past it. It knows what is busy, what is pinned and what fits, so residency stays its plan.
"""

from typing import Protocol


class Keeper(Protocol):
    """Keeps models in memory, in this process or in another (processes/far_keeper.py)."""

    def doubt(self, instance: str) -> None:
        """Have an instance looked at now."""

    async def load(self, model: str, instance: str, *, pin: bool) -> str:
        """Have the model of a key loaded, on `instance` or, if that is empty, where it disturbs least; return where.

        `pin` keeps it there until it is unloaded. Raises ModelTooLarge, NoInstance and InstanceFailed.
        """

    async def unload(self, model: str, instance: str, *, keep_out_s: float = 0.0) -> None:
        """Unpin a model and free its memory on `instance`, or, if that is empty, everywhere.

        What runs ends first. For `keep_out_s` it is not loaded again, whoever waits for it.
        """
