"""What instances tell of a model only when they are asked about it, kept by its digest: it does not change.

A listing asks for what it does not know yet, but does not wait long for it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

from services.common.errors import MeshError
from services.inference.core.ledger import Model
from services.inference.ports import Description

KEPT_MAX = 4096
ASKED_AT_ONCE_MAX = 4
WITHIN_S = 2.0


class Contexts:
    """The contexts that models were made for, in tokens."""

    def __init__(self, describe: Callable[[Model], Awaitable[Description]]) -> None:
        """`describe` raises a MeshError if nobody tells."""
        self._describe = describe
        self._known: dict[str, int] = {}
        self._asking = asyncio.Semaphore(ASKED_AT_ONCE_MAX)

    async def of(self, models: Iterable[Model]) -> Mapping[str, int]:
        """Return the contexts of models by their digests, as far as they are known in time."""
        listed = [model for model in models if model.card.digest]
        unknown = [model for model in listed if model.card.digest not in self._known]
        if unknown:
            try:
                async with asyncio.timeout(WITHIN_S):
                    await asyncio.gather(*map(self._ask, unknown))
            except TimeoutError:
                """What is missing is asked for again the next time."""
        return {model.card.digest: self._known.get(model.card.digest, 0) for model in listed}

    async def _ask(self, model: Model) -> None:
        async with self._asking:
            try:
                description = await self._describe(model)
            except MeshError:
                return
        if len(self._known) >= KEPT_MAX:
            self._known.pop(next(iter(self._known)))
        self._known[model.card.digest] = description.context_token_count_max
