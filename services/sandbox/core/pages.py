"""Pages of lists, and the tokens that lead from one to the next.

A token says where a page begins, and not how many there were before: so whatever is added or removed between two
pages, nothing that stays is told twice or left out.
"""

import base64
from collections.abc import Sequence
from typing import NamedTuple


class Position(NamedTuple):
    """Where something stands in a list that begins with the newest."""

    created_us: int
    id: str


def newest(
    positions: Sequence[Position], *, before: Position | None, count_max: int
) -> tuple[Sequence[Position], bool]:
    """The `count_max` newest that are older than `before`, newest first, and whether there are more."""
    older = sorted((each for each in positions if before is None or each < before), reverse=True)
    return older[:count_max], len(older) > count_max


def to_token(text: str) -> str:
    """A page token that holds `text`, which may be a name that is no UTF-8."""
    return base64.urlsafe_b64encode(text.encode("utf-8", "surrogateescape")).decode("ascii")


def from_token(token: str) -> str:
    """What `to_token` was given. Raises ValueError if it made no such token."""
    return base64.b64decode(token, altchars=b"-_", validate=True).decode("utf-8", "surrogateescape")


def position_to_token(position: Position) -> str:
    return to_token(f"{position.created_us} {position.id}")


def position_from_token(token: str) -> Position:
    """Raises ValueError."""
    created_us, _, name = from_token(token).partition(" ")
    if not name:
        raise ValueError
    return Position(int(created_us), name)
