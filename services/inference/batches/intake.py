"""A batch on its way in: read to its end, checked, and kept in memory until all of it is there.

What is kept is bounded for one batch, and for all that are on their way at once; and a caller who is slow to send one
is refused after a while, so that nobody holds the room for ever.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from uuid import uuid4

from google.protobuf.duration_pb2 import Duration
from ollamesh.inference.v1 import batch_pb2 as pb

from services.common.errors import InvalidRequest, MeshError, Violation
from services.inference.batches.checking import check_items, numbered
from services.inference.batches.ports import Batches, Creator, NewBatch, Record, Retry
from services.inference.budgets import Budgets
from services.inference.core.bounds import Bounds
from services.inference.errors import QuotaExceeded

ITEMS_MAX = 50_000
DAY_S = 86_400.0
RETENTION_S = 7 * DAY_S
UPLOAD_S_MAX = 600.0
CHECKED_AT_ONCE = 100  # Items, before others have a turn: some milliseconds.
WRITTEN_AT_ONCE = 2  # Batches: the store has other callers.
ROOM_RETRY_S = 5.0
ROOM_IN_BATCHES = 4  # How many of the largest batches may be on their way at once.


@dataclass(slots=True, kw_only=True)
class Draft:
    """What has come of a batch so far."""

    creator: Creator
    bounds: Bounds
    bytes_max: int
    header: pb.CreateBatchRequest.Header | None = None
    items: list[bytes] = field(default_factory=list)
    items_bytes: int = 0

    def begin(self, header: pb.CreateBatchRequest.Header) -> None:
        if self.header is not None:
            raise InvalidRequest([Violation("header", "comes once, first of all", "batch.grammar")])
        self.header = header

    async def add(self, items: Sequence[pb.BatchItem]) -> None:
        """Check and keep some items. Raises InvalidRequest and NotServed."""
        if self.header is None:
            raise InvalidRequest([Violation("header", "comes first of all", "batch.grammar")])
        if len(self.items) + len(items) > ITEMS_MAX:
            raise InvalidRequest([Violation("items", f"are more than {ITEMS_MAX}", "batch.count")])
        for start in range(0, len(items), CHECKED_AT_ONCE):
            some = items[start : start + CHECKED_AT_ONCE]
            check_items(some, self.bounds, first_index=len(self.items))
            kept = [item.SerializeToString(deterministic=True) for item in some]
            self.items += kept
            self.items_bytes += sum(map(len, kept))
            await asyncio.sleep(0)
        if self.items_bytes > self.bytes_max:
            raise InvalidRequest([Violation("items", f"are more than {self.bytes_max} bytes", "batch.bytes")])

    def whole(self, origin: bytes | None = None) -> NewBatch:
        """Return the batch. Raises InvalidRequest if it has no items."""
        header = self.header
        if header is None:
            raise InvalidRequest([Violation("header", "is missing", "batch.grammar")])
        if not self.items:
            raise InvalidRequest([Violation("items", "are missing", "batch.count")])
        retention_s = _seconds(header.retention) or RETENTION_S
        return NewBatch(
            batch_id=uuid4(),
            creator=self.creator,
            items=self.items,
            display_name=header.display_name,
            origin=origin,
            window_s=_seconds(header.completion_window) or DAY_S,
            retention_s=retention_s,
            retry=Retry(request_id=header.request_id, body_hash=self._digest())
            if header.request_id
            else None,
        )

    def _digest(self) -> bytes:
        """What tells this body from another, in however many parts it came."""
        assert self.header is not None
        rest = pb.CreateBatchRequest.Header()
        rest.CopyFrom(self.header)
        rest.ClearField("request_id")
        digest = hashlib.sha256()
        for part in (rest.SerializeToString(deterministic=True), *self.items):
            digest.update(len(part).to_bytes(4, "big"))
            digest.update(part)
        return digest.digest()


class Room:
    """The memory that batches on their way may take, all together."""

    def __init__(self, free_bytes: int) -> None:
        self._free_bytes = free_bytes

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """A share of it, which ends with the block, and a way to say how large it has become. Raises QuotaExceeded."""
        taken_bytes = 0

        def grow_to(size_bytes: int) -> None:
            nonlocal taken_bytes
            more_bytes = size_bytes - taken_bytes
            if more_bytes > self._free_bytes:
                raise QuotaExceeded(quota="batch_uploads", retry_after_s=ROOM_RETRY_S)
            self._free_bytes -= more_bytes
            taken_bytes = size_bytes

        try:
            yield grow_to
        finally:
            self._free_bytes += taken_bytes


class Intake:
    """Accepts batches, of one process."""

    def __init__(self, batches: Batches, budgets: Budgets | None = None, *, bytes_max: int) -> None:
        """Without `budgets`, nobody is charged for items."""
        self.bytes_max = bytes_max
        self.room = Room(ROOM_IN_BATCHES * bytes_max)
        self._batches = batches
        self._budgets = budgets
        self._writing = asyncio.Semaphore(WRITTEN_AT_ONCE)

    async def read(
        self, parts: AsyncIterable[pb.CreateBatchRequest], creator: Creator, bounds: Bounds
    ) -> Record:
        """Read a batch to its end and accept it. Raises InvalidRequest, NotServed, QuotaExceeded and StoreFailure."""
        draft = Draft(creator=creator, bounds=bounds, bytes_max=self.bytes_max)
        with self.room.share() as grow_to:
            try:
                async with asyncio.timeout(UPLOAD_S_MAX):
                    await _gather(parts, draft, grow_to)
            except TimeoutError:
                raise InvalidRequest([Violation("items", "took too long to arrive", "batch.time")]) from None
            return await self.accept(draft)

    async def accept(self, draft: Draft, origin: bytes | None = None) -> Record:
        """Store a batch that is whole."""
        new = draft.whole(origin)
        if self._budgets is None:
            return await self._stored(new)
        owner, items = new.creator.principal, len(new.items)
        # Charged under the name of the batch that is there in the end: never twice for one, never once for two.
        batch_id = await self._batches.remembered(new) or new.batch_id
        async with self._budgets.charged_items(owner, items, name=batch_id.hex) as charge:
            try:
                record = await self._stored(new)
            except asyncio.CancelledError:
                with suppress(MeshError):  # Whoever goes away in the moment of the commit has a batch, too.
                    await self._batches.find(owner, new.batch_id)
                    charge()
                raise
            if record.batch_id == batch_id:
                charge()
        return record

    async def _stored(self, new: NewBatch) -> Record:
        async with self._writing:
            return await self._batches.create(new)


async def _gather(
    parts: AsyncIterable[pb.CreateBatchRequest], draft: Draft, grow_to: Callable[[int], None]
) -> None:
    arriving = aiter(parts)
    while True:
        with numbered(len(draft.items)):
            part = await anext(arriving, None)
        if part is None:
            return
        if part.HasField("header"):
            draft.begin(part.header)
        else:
            await draft.add(part.items.items)
            grow_to(draft.items_bytes)


def _seconds(duration: Duration) -> float:
    return duration.ToNanoseconds() / 1e9
