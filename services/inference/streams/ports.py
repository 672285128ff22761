"""What streams need of the outside world."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from services.inference.streams.records import Head, Record


class Away(Exception):
    """What the replicas share cannot be reached, or takes nothing more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """What is to be added to a stream, whose frames are kept from `first` to `last`, with these."""

    tenant: str
    stream_id: str
    head: Head | None
    records: Sequence[Record]
    first: int
    last: int
    heir_count: int  # How often another process has taken it over.
    heir_after: int = 0  # The last frame that was not the writer's own.
    is_new: bool = False  # Whether nothing of it may be there.


class Written(Enum):
    """What became of a Writing."""

    KEPT = "kept"  # Or it had been added before.
    LOST = "lost"  # What it adds to is not there any more. All that is still held is to be written again.
    FENCED = "fenced"  # Another process has taken the stream over: what it writes counts.


class Sign(Enum):
    """What a process has said of itself lately."""

    ALIVE = "alive"
    GONE = "gone"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What was found at the end of a stream."""

    records: Sequence[Record]
    place: str  # Where to go on from.
    owner: Sign
    is_kept: bool = True  # Whether anything of the stream is.


class SharedLog(Protocol):
    """Streams as all replicas see them. Methods raise Away."""

    @property
    def up(self) -> bool:
        """Whether it can be reached, as far as is known."""

    async def write(self, writings: Sequence[Writing]) -> list[Written]:
        """Add to streams; return what became of each. Adding the same again changes nothing."""

    async def head(self, tenant: str, stream_id: str) -> Head | None:
        """Return who makes a stream; None if it is not kept."""

    async def news(self, tenant: str, stream_id: str, *, after: str, owner: str) -> News:
        """Return what was added after a place ("" for all), and tell the owner that somebody reads."""

    async def has_ended(self, tenant: str, stream_id: str) -> bool:
        """Whether a stream's end is written."""

    async def is_followed(self, stream_id: str) -> bool:
        """Whether a process other than the owner's has lately asked for news."""

    async def claim(self, name: bytes, stream_id: str) -> str:
        """Return which stream answers the request of this name: this one, unless another one does already."""

    async def release(self, name: bytes, stream_id: str) -> None:
        """The stream answers the request no longer, for those who come."""

    async def inherit(self, stream_id: str, *, owner: str) -> bool:
        """Whether this process, and no other, takes over from `owner`. Asking again changes nothing."""

    async def alive(self) -> list[str]:
        """Say that this process lives; return the streams of its own that others want to be cancelled."""

    async def cancel(self, stream_id: str, *, owner: str) -> None:
        """Have a stream's owner cancel it."""

    async def farewell(self) -> None:
        """Say that this process is gone."""
