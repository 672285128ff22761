"""What batches need from their store, and the words for it. What users and models wrote is not in their `repr`."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID

from services.inference.core.accounting import Entry
from services.inference.core.batches import Open, State
from services.inference.core.callers import Principal


@dataclass(frozen=True, slots=True, kw_only=True)
class Creator:
    """On whose behalf a batch is done, and what bounds its items."""

    principal: Principal
    roles: tuple[str, ...]  # As Policies.bounds wants them.


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """What makes a second request the same as the first."""

    request_id: str
    body_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBatch:
    """A batch to be accepted: all of it, or nothing."""

    batch_id: UUID
    creator: Creator
    items: Sequence[bytes] = field(repr=False)  # Each a BatchItem.
    display_name: str = ""
    origin: bytes | None = None  # What else its creator said, if another API than ours.
    window_s: float
    retention_s: float
    retry: Retry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A batch as it stands."""

    batch_id: UUID
    position: int
    display_name: str
    origin: bytes | None
    state: State
    item_count: int
    succeeded_count: int
    failed_count: int
    create_time: datetime
    start_time: datetime | None
    end_time: datetime | None
    due_time: datetime
    expire_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """Some of the batches before a position."""

    size: int
    before: int | None = None
    only_of_origin: bool = False  # Those that another API than ours made.


class Result(NamedTuple):
    """A result as it is told."""

    sequence: int
    succeeded: bool
    payload: bytes  # A StreamBatchResultsResponse without its sequence.


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Some results, in order."""

    found: Sequence[Result]
    is_last: bool  # No more will come.


class Place(NamedTuple):
    """Which item of which batch."""

    batch_id: UUID
    item_index: int


class Claim(NamedTuple):
    """That somebody took an item. Of all who did, the last one's is good, by the fence: it rises each time."""

    place: Place
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An item that was taken. Whoever has the good claim may say what becomes of it."""

    place: Place
    fence: int
    request: bytes = field(repr=False)
    creator: Creator
    attempt_count: int  # This one included.
    put_back_count: int

    @property
    def claim(self) -> Claim:
        return Claim(self.place, self.fence)

    @property
    def is_suspect(self) -> bool:
        """Whether it was lost before."""
        return self.attempt_count > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """An item's result."""

    held: Held
    succeeded: bool
    payload: bytes = field(repr=False)
    entry: Entry | None = None  # Of the usage ledger.


@dataclass(frozen=True, slots=True, kw_only=True)
class PutBack:
    """An item that somebody else is to try, later."""

    held: Held
    delay_s: float
    counts: bool  # As an attempt.


class Batches(Protocol):
    """What callers ask. Everything is its creator's own: to others it does not exist. Raises StoreFailure."""

    async def create(self, new: NewBatch) -> Record:
        """Accept a batch. The same request again finds what it made. Raises RequestIdReused and QuotaExceeded."""

    async def remembered(self, new: NewBatch) -> UUID | None:
        """Which batch the same request has made, if it has made one and is not forgotten."""

    async def find(self, owner: Principal, batch_id: UUID) -> Record:
        """Raises BatchNotFound."""

    async def page(self, owner: Principal, request: PageRequest) -> tuple[Sequence[Record], bool]:
        """Return batches, newest first, and whether there are more."""

    async def cancel(self, owner: Principal, batch_id: UUID) -> Record:
        """End a batch, if it has not ended. Raises BatchNotFound."""

    async def results(
        self, owner: Principal, batch_id: UUID, *, after_sequence: int, only: bool | None = None
    ) -> Results:
        """Return what follows a sequence; `only` what succeeded, or what did not. Raises BatchNotFound."""


class Items(Protocol):
    """What workers ask. Raises StoreFailure."""

    async def open(self, *, paused: Collection[UUID]) -> Sequence[Open]:
        """Of each organisation, the oldest batch that has a new item to be taken."""

    async def take(self, batch_id: UUID, *, count_max: int) -> Sequence[Held]:
        """Take new items, in their order. The lease is the store's."""

    async def take_suspect(self) -> Held | None:
        """Take an item that was lost before, of any batch."""

    async def keep(self, held: Collection[Held], *, renew: bool) -> set[Claim]:
        """Return the claims that are still good; `renew` their leases."""

    async def finish(self, done: Sequence[Done]) -> set[Claim]:
        """Write results, and charge for them, where the claim is good: once. Return which that were."""

    async def put_back(self, given_up: Sequence[PutBack]) -> None:
        """Let others take those of which the claim is good."""

    async def seize_overdue(self, *, count_max: int) -> Sequence[Held]:
        """Take items of batches whose window has ended, whoever has them."""

    async def sweep(self) -> Mapping[str, int]:
        """Delete some of what nobody needs any more; return how many rows of what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A file to be kept."""

    file_id: UUID
    filename: str
    parts: Sequence[bytes] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A file as it is kept."""

    file_id: UUID
    position: int
    filename: str
    size_bytes: int
    create_time: datetime
    expire_time: datetime


class Files(Protocol):
    """What callers upload. Each is its uploader's own: to others it does not exist. Raises StoreFailure."""

    async def create(self, owner: Principal, new: NewFile) -> FileRecord:
        """Keep a file. Raises QuotaExceeded."""

    async def find(self, owner: Principal, file_id: UUID) -> FileRecord:
        """Raises FileNotFound."""

    async def page(
        self, owner: Principal, *, before: int | None, size: int
    ) -> tuple[Sequence[FileRecord], bool]:
        """Return files, newest first, and whether there are more."""

    async def part(self, file_id: UUID, index: int) -> bytes | None:
        """Return a part of a file that was found, None after the last."""

    async def delete(self, owner: Principal, file_id: UUID) -> None:
        """Raises FileNotFound."""
