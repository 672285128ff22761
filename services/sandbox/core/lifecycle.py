"""The life of an execution, as a table, and the verdict at its end.

    WAITING --BEGAN--> RUNNING --LEFT | WALL_PASSED | FLOODED--> STOPPING --GONE--> ENDED
                          +-----------------------GONE--------------------------------^

Two rules. The first reason to stop is the one that is told; what follows while the jail dies is noise.
And only GONE ends an execution that ran: until the jail is gone, something of it may be left.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from services.sandbox.core.limits import LimitKind


class Outcome(Enum):
    OK = auto()
    ERROR = auto()
    TIMEOUT = auto()
    OOM = auto()
    OUTPUT_LIMIT = auto()
    SIGNALLED = auto()
    CANCELLED = auto()


class Phase(Enum):
    WAITING = auto()  # For a jail.
    RUNNING = auto()
    STOPPING = auto()  # Killed, not yet gone.
    ENDED = auto()


class Event(Enum):
    BEGAN = auto()
    LEFT = auto()  # The caller did, or asked for the end.
    WALL_PASSED = auto()
    FLOODED = auto()
    GONE = auto()  # Nothing of the jail is left.


@dataclass(frozen=True, slots=True)
class Step:
    to: Phase
    because: Outcome | None = None  # A step with a reason ends what is under way: the wait or the jail.


# What is not here changes nothing: an event came too late.
STEPS: Mapping[tuple[Phase, Event], Step] = {
    (Phase.WAITING, Event.BEGAN): Step(Phase.RUNNING),
    (Phase.WAITING, Event.LEFT): Step(Phase.ENDED, Outcome.CANCELLED),
    (Phase.RUNNING, Event.LEFT): Step(Phase.STOPPING, Outcome.CANCELLED),
    (Phase.RUNNING, Event.WALL_PASSED): Step(Phase.STOPPING, Outcome.TIMEOUT),
    (Phase.RUNNING, Event.FLOODED): Step(Phase.STOPPING, Outcome.OUTPUT_LIMIT),
    (Phase.RUNNING, Event.GONE): Step(Phase.ENDED),
    (Phase.STOPPING, Event.GONE): Step(Phase.ENDED),
}


# The limit for which we stop it. CANCELLED is not one.
ENDED_BY: Mapping[Outcome, LimitKind] = {
    Outcome.TIMEOUT: LimitKind.WALL,
    Outcome.OUTPUT_LIMIT: LimitKind.OUTPUT,
}


class Lifecycle:
    def __init__(self) -> None:
        self.phase = Phase.WAITING
        self.stopped_because: Outcome | None = None

    def on(self, event: Event) -> bool:
        """Take `event` in. Return whether what is under way must be ended now."""
        step = STEPS.get((self.phase, event))
        if step is None:
            return False
        self.phase = step.to
        self.stopped_because = self.stopped_because or step.because
        return step.because is not None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a program ended, told by the jail and, but for a session's status, not by the program in it."""

    status: int | None  # Exit code, or minus the signal. None: nobody was left to tell.
    breach: LimitKind | None  # The limit for which the jail ended it: MEMORY or CPU.
    cpu_s: float
    peak_memory_bytes: int
    reached: frozenset[LimitKind] = frozenset()  # Limits that only refuse, and did: PROCESSES, FILES.


@dataclass(frozen=True, slots=True)
class Verdict:
    outcome: Outcome
    exit_code: int = 0
    signal: int = 0


def judge(stopped_because: Outcome | None, ending: Ending) -> Verdict | None:
    """What to call it. None if the jail was lost: it died, and neither we nor the program did it.

    Our reason to stop it outweighs what its jail tells: once it is being killed, that is noise.
    """
    if stopped_because is not None:
        return Verdict(stopped_because)
    if ending.breach is not None:
        return Verdict(Outcome.OOM if ending.breach is LimitKind.MEMORY else Outcome.TIMEOUT)
    if ending.status is None:
        return None
    if ending.status < 0:
        return Verdict(Outcome.SIGNALLED, signal=-ending.status)
    return Verdict(Outcome.OK if ending.status == 0 else Outcome.ERROR, exit_code=ending.status)


def limits_reached(stopped_because: Outcome | None, ending: Ending) -> tuple[LimitKind, ...]:
    """Every limit that it ran into. The one that ended it, if one did, is the first."""
    ended_by = ending.breach if stopped_because is None else ENDED_BY.get(stopped_because)
    first = () if ended_by is None else (ended_by,)
    others = ending.reached | {ending.breach}
    return (*first, *(kind for kind in LimitKind if kind in others and kind not in first))
