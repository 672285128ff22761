"""What waits and runs: a request as the scheduler sees it."""

from dataclasses import dataclass
from enum import IntEnum
from math import inf
from typing import Protocol

from services.inference.core.prefixes import Prefix


class Priority(IntEnum):
    """Which jobs go first. Numbered as in the proto."""

    INTERACTIVE = 1
    DEFAULT = 2
    BATCH = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    ticket: int  # Rises with arrival, so it also breaks ties.
    tenant: str
    model: str  # A key, see core/names.py.
    priority: Priority
    arrived_at_s: float
    expires_at_s: float  # The latest start.
    deadline_at_s: float = inf  # The latest end.
    prompt_token_count: int = 0  # An estimate.
    output_token_max: int = 0  # The request's own limit; 0 is none.
    prefixes: tuple[Prefix, ...] = ()  # Of its prompt, the longest first.
    avoid: frozenset[str] = frozenset()  # Instances that have failed it.


class Errand(Protocol):
    """What the scheduler must know of an order; the rest is between its work and an instance."""

    @property
    def model(self) -> str: ...
    @property
    def prompt_token_count(self) -> int: ...
    @property
    def output_token_max(self) -> int: ...
    @property
    def prefixes(self) -> tuple[Prefix, ...]: ...
