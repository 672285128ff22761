"""Budgets: whose they are, what is left of them, and how much of that is given to one who asks.

A request is charged to its key, its project and its organisation at once, so the least that is left counts. Beyond what
is needed, only a share of the rest is given: whoever holds the last of a small budget holds little of it, and what others
hold idle comes back with their leases.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum

SHARE = 8  # Of what is left beyond what is needed, one in so many is given at once.
HELD_RETRY_S = 5.0  # What others have set aside comes back about so soon.
MICRO = 1_000_000
MAX = 2**62  # More than this is a mistake, and would overflow the store's sums.


class Kind(Enum):
    ORGANIZATION = "organization"
    PROJECT = "project"
    API_KEY = "api_key"


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose limits. Ids are unique within an organisation."""

    kind: Kind
    organization_id: str
    subject_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who is charged, all at once."""

    organization_id: str
    project_id: str
    api_key_id: str = ""  # Empty where no key was used.

    @property
    def subjects(self) -> tuple[Subject, ...]:
        ids = {
            Kind.ORGANIZATION: self.organization_id,
            Kind.PROJECT: self.project_id,
            Kind.API_KEY: self.api_key_id,
        }
        return tuple(Subject(kind, self.organization_id, one) for kind, one in ids.items() if one)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most that a subject may use. None is unlimited."""

    requests_per_second: float | None = None
    request_burst_count: int | None = None
    tokens_per_day: int | None = None
    gpu_seconds_per_day: float | None = None
    concurrent_stream_count: int | None = None
    batch_items_per_day: int | None = None

    @property
    def budgets(self) -> tuple[int | None, int | None, int | None]:
        """In the units and the order of an Amount."""
        gpu_s = self.gpu_seconds_per_day
        gpu_us = None if gpu_s is None else min(MAX, round(gpu_s * MICRO))
        return (self.tokens_per_day, gpu_us, self.batch_items_per_day)


BUDGETS = ("tokens_per_day", "gpu_seconds_per_day", "batch_items_per_day")  # In the order of an Amount.


@dataclass(frozen=True, slots=True)
class Amount:
    """What work costs."""

    token_count: int = 0
    gpu_us: int = 0
    batch_item_count: int = 0

    @property
    def parts(self) -> tuple[int, int, int]:
        return (self.token_count, self.gpu_us, self.batch_item_count)

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(*map(sum, zip(self.parts, other.parts, strict=True)))

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(*(mine - its for mine, its in zip(self.parts, other.parts, strict=True)))

    def at_least(self, other: "Amount") -> "Amount":
        """The larger of each."""
        return Amount(*map(max, zip(self.parts, other.parts, strict=True)))


NOTHING = Amount()


@dataclass(frozen=True, slots=True)
class Book:
    """One subject's day so far."""

    limits: Limits
    used: Amount = NOTHING
    reserved: Amount = NOTHING  # By leases that last, for work under way.


Books = Mapping[Kind, Book]


@dataclass(frozen=True, slots=True)
class Spent:
    """A budget that has not enough left."""

    quota: str  # Such as "organization.tokens_per_day".
    limit: int | float
    only_held: bool  # Enough would be left if nobody else had set any aside.


def retry_s(spent: Spent, *, reset_s: float) -> float:
    """When to try again, where the day lasts for so long."""
    return min(HELD_RETRY_S, reset_s) if spent.only_held else reset_s


@dataclass(frozen=True, slots=True)
class Given:
    amount: Amount  # Of what has no limit: zero.
    limited: tuple[bool, bool, bool]
    spent: Spent | None  # Why it is less than what was needed.


def given(books: Books, needed: Amount, wanted: Amount = NOTHING) -> Given:
    """Say how much of their budgets one gets who needs an amount, and would like so much beyond it."""
    amounts, limited, spent = [0, 0, 0], [False, False, False], None
    for place, (need, wish) in enumerate(zip(needed.parts, wanted.parts, strict=True)):
        scarce = _scarcest(books, place)
        if scarce is None:
            continue
        kind, left = scarce
        limited[place] = True
        if left < need and need > 0:
            spent = spent or _spent(kind, books[kind], place, need)
        amounts[place] = max(0, min(left, need + min(wish, max(0, left - need) // SHARE)))
    return Given(Amount(*amounts), (limited[0], limited[1], limited[2]), spent)


def stream_limits(books: Books) -> Mapping[Kind, int | None]:
    return {kind: book.limits.concurrent_stream_count for kind, book in books.items()}


def _scarcest(books: Books, place: int) -> tuple[Kind, int] | None:
    """Whose budget has the least left, and how much; None where none is limited."""
    lefts = [
        (kind, limit - book.used.parts[place] - book.reserved.parts[place])
        for kind, book in books.items()
        if (limit := book.limits.budgets[place]) is not None
    ]
    return min(lefts, key=lambda each: each[1], default=None)


def _spent(kind: Kind, book: Book, place: int, need: int) -> Spent:
    limit = book.limits.budgets[place]
    assert limit is not None, "it is the scarcest"
    name = BUDGETS[place]
    told: int | float = getattr(book.limits, name)
    return Spent(f"{kind.value}.{name}", told, only_held=book.used.parts[place] + need <= limit)


def read_limits(row: Mapping[str, object]) -> tuple[Limits, list[str]]:
    """Limits as configuration has them, and every mistake in them."""
    mistakes, found = [], {}
    names = {field.name for field in fields(Limits)}
    for name, value in row.items():
        if name not in names:
            mistakes.append(f"has no limit called {name!r}"[:120])
        elif type(value) not in (_TYPES[name]) or not isinstance(value, int | float) or not 0 <= value < MAX:
            mistakes.append(f"has something else than a number of at least 0 for {name}")
        else:
            found[name] = value
    return Limits(**found), mistakes  # type: ignore[arg-type]  # Checked above.


_TYPES: Mapping[str, tuple[type, ...]] = {
    name: (int, float) if name in {"requests_per_second", "gpu_seconds_per_day"} else (int,)
    for name in (field.name for field in fields(Limits))
}
