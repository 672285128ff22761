"""What becomes of an item of a batch, and whose turn it is.

    an item's run ended with                          then
    ------------------------------------------------  ---------------------------------------------------------
    an answer                                         it is the result
    a failure that would come again (Verdict.FINAL)   it is the result
    a refusal for load (Verdict.WAIT)                 it is put back for a while; that does not count
    the loss of its instance, a bug (Verdict.RETRY)   it is put back for a while, and counts as an attempt
    the loss of its worker (nobody says so)           its lease lapses; it counts as an attempt

An item that was lost with its worker or its instance is a suspect: it may be what kills them. A process runs one suspect
at a time, so that those which only ran beside a deadly one clear themselves: each of them is lost with it once, as a
newcomer, and not a second time. After ATTEMPTS_MAX attempts an item is given up.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from uuid import UUID

from services.common.errors import Kind, MeshError
from services.inference.errors import CutShort, InstanceFailed, TimeExceeded

ATTEMPTS_MAX = 3
# How long an item that was put back stays away: more each time, and never so long that a fleet that is well again has
# nothing to do.
WAIT_FIRST_S = 1.0
WAIT_LONGEST_S = 60.0
# How long a process leaves a batch alone whose items are refused, so that an outage is not asked about by each of
# 50,000 items in turn.
PAUSE_FIRST_S = 0.25
PAUSE_LONGEST_S = 15.0
PAUSED_MAX = 1000  # Batches that are remembered so.

_DOUBLINGS_MAX = 16  # Beyond this every delay is at its longest.


class State(Enum):
    """How far a batch is."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    DONE = "DONE"
    CANCELLED = "CANCELLED"


class Verdict(Enum):
    """What a failure says of the item that met it."""

    FINAL = auto()  # It is the item's own, and would come again.
    WAIT = auto()  # It is the time's: too much was asked for, or nobody was there.
    RETRY = auto()  # It may be either.


_OF_THE_TIME = frozenset({Kind.EXHAUSTED, Kind.UNAVAILABLE, Kind.TIMED_OUT})


def verdict(error: Exception) -> Verdict:
    """Say what an item's failure means for it."""
    match error:
        case TimeExceeded():  # It took all the time that its caller's policy allows.
            return Verdict.FINAL
        case CutShort() | InstanceFailed():
            return Verdict.RETRY
        case MeshError():
            return Verdict.WAIT if error.kind in _OF_THE_TIME else Verdict.FINAL
        case _:
            return Verdict.RETRY


def delay_s(put_back_count: int, *, at_least_s: float | None, chance: float) -> float:
    """How long an item stays away that was put back so often before. `chance`, from 0 to 1, spreads those of a moment."""
    doublings = min(put_back_count, _DOUBLINGS_MAX)
    longest_s = min(WAIT_FIRST_S * 2.0**doublings, WAIT_LONGEST_S)
    return max(longest_s * (0.5 + chance / 2), at_least_s or 0.0)


@dataclass(frozen=True, slots=True)
class Open:
    """A batch that has items to be taken."""

    batch_id: UUID
    organization_id: str


class Turns:
    """Which batch a process takes items from: organisations in turn, however many items they have.

    Beside that, which batches it leaves alone for a while because the fleet refuses their items.
    """

    def __init__(self) -> None:
        self._last = ""  # The organisation that was served last.
        self._pauses: dict[UUID, tuple[int, float]] = {}  # Refusals in a row, and when the pause is over.

    def next(self, found: Sequence[Open]) -> Open:
        """Choose one of `found`, of which there is at most one for each organisation."""
        order = sorted(found, key=lambda batch: batch.organization_id)
        after = (batch for batch in order if batch.organization_id > self._last)
        chosen = next(after, order[0])
        self._last = chosen.organization_id
        return chosen

    def refused(self, batch_id: UUID, now_s: float) -> None:
        """Note that the fleet did not take an item."""
        count, until_s = self._pauses.pop(batch_id, (0, now_s))
        if until_s > now_s:  # Another one that was on its way when the pause began: the same refusal.
            self._pauses[batch_id] = count, until_s
            return
        pause_s = min(PAUSE_FIRST_S * 2.0 ** min(count, _DOUBLINGS_MAX), PAUSE_LONGEST_S)
        self._pauses[batch_id] = count + 1, now_s + pause_s
        if len(self._pauses) > PAUSED_MAX:
            del self._pauses[next(iter(self._pauses))]

    def answered(self, batch_id: UUID) -> None:
        """Note that the fleet works on its items again."""
        self._pauses.pop(batch_id, None)

    def paused(self, now_s: float) -> Collection[UUID]:
        """Return the batches to be left alone now."""
        return [batch_id for batch_id, (_, until_s) in self._pauses.items() if until_s > now_s]


def share(free_count: int, organization_count: int) -> int:
    """How many items to take at once from one organisation's batch, so that the others' turns come soon."""
    return max(1, free_count // max(1, organization_count))
