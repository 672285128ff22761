"""The results of a batch, read as they appear, on any replica: the store is asked, for it knows what all of them write."""

import asyncio
from collections.abc import AsyncGenerator
from uuid import UUID

from services.inference.batches.ports import Batches, Results
from services.inference.core.callers import Principal

LOOK_EVERY_S = 0.2


async def follow(
    batches: Batches, owner: Principal, batch_id: UUID, *, after_sequence: int
) -> AsyncGenerator[Results, None]:
    """Pages of results until the batch has ended. Raises BatchNotFound and StoreFailure.

    A page is in memory before it is given on: nothing of the store is held while its reader takes its time.
    """
    while True:
        page = await batches.results(owner, batch_id, after_sequence=after_sequence)
        if page.found:
            after_sequence = page.found[-1].sequence
            yield page
        if page.is_last:
            return
        if not page.found:
            await asyncio.sleep(LOOK_EVERY_S)
