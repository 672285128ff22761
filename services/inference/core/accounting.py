"""What requests use: how it is written down, and how it is asked for."""

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from services.common.errors import Violation
from services.inference.core.callers import Principal

PERIOD_MAX = dt.timedelta(days=400)
# More than either is not true. What an instance says of itself is kept within what the ledger can add up.
COUNT_MAX = 2**31
SECONDS_MAX = 7 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What one request used. Written again with the same `entry_id` and `created_at`, it counts once."""

    entry_id: UUID
    created_at: dt.datetime  # When it ended; aware.
    stream_id: str  # Empty for what is no stream.
    principal: Principal
    model: str  # Its key.
    operation: str  # gen_ai.operation.name
    prompt_token_count: int = 0
    output_token_count: int = 0
    gpu_s: float = 0.0  # A slot worked for it.
    queue_s: float = 0.0  # It waited for a slot.
    cached: bool = False
    joined: bool = False
    cancelled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """When a request arrived, got a slot and ended, on one clock."""

    opened_at_s: float
    placed_at_s: float | None  # None if it never had a slot.
    ended_at_s: float

    @property
    def queue_s(self) -> float:
        return seconds((self.ended_at_s if self.placed_at_s is None else self.placed_at_s) - self.opened_at_s)

    @property
    def slot_s(self) -> float:
        """For how long it had a slot."""
        return 0.0 if self.placed_at_s is None else seconds(self.ended_at_s - self.placed_at_s)


def seconds(value: float) -> float:
    """A duration that can be added up."""
    return min(value, SECONDS_MAX) if value > 0 else 0.0  # So is what is no number.


def count(value: int) -> int:
    """A number of tokens that can be added up."""
    return max(0, min(value, COUNT_MAX))


class Dimension(Enum):
    """What usage can be told apart by."""

    PROJECT = "project"
    USER = "user"
    MODEL = "model"
    DAY = "day"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Whose usage of which time is asked for."""

    organization_id: str
    user_id: str | None  # None: everybody's of the organisation.
    start: dt.datetime
    end: dt.datetime  # Not included.
    dimensions: Collection[Dimension]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Usage, added up. A dimension that was not asked for is None."""

    project: str | None
    user: str | None
    model: str | None
    day: dt.datetime | None  # Its start, in UTC.
    request_count: int
    prompt_token_count: int
    output_token_count: int
    gpu_s: float
    queue_s: float
    cached_count: int
    joined_count: int
    cancelled_count: int


def wrong_period(start: dt.datetime, end: dt.datetime) -> list[Violation]:
    """What is wrong with a period, by the fields of GetUsageRequest."""
    if end <= start:
        return [Violation("end_time", "must be after start_time", "usage.period")]
    if end - start > PERIOD_MAX:
        text = f"the period must not be longer than {PERIOD_MAX.days} days"
        return [Violation("end_time", text, "usage.period")]
    return []
