"""The life of a session, as a table, and when it ends by itself.

    STARTING --OPENED--> IDLE --BEGAN--> BUSY --FINISHED--> IDLE
       ^------- LOST -----+------ LOST ----+         each --CLOSED--> ENDED

Three rules. A session that has ended stays so. It ends at the end of its life however busy it is, and of idleness
only while it is IDLE. And a lost interpreter is told exactly once: with the execution that lost it, or else at the
start of the next one. Times are seconds of whatever clock the caller has.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from services.sandbox.core.lifecycle import Ending

# A program may lose its interpreter as often as it likes, within reason: each new one costs a jail.
RESTARTS_MAX = 100
# One that is lost again and again while nothing runs in it does not work here.
IDLE_LOSSES_MAX = 3


class State(Enum):
    STARTING = auto()  # Its jail is being made, or made anew.
    IDLE = auto()
    BUSY = auto()  # Something runs.
    ENDED = auto()


class Event(Enum):
    OPENED = auto()  # There is a jail.
    BEGAN = auto()
    FINISHED = auto()  # And the interpreter goes on.
    LOST = auto()  # The jail is gone.
    CLOSED = auto()  # By its owner, by a limit, or because there is no jail for it any more.


class Cause(Enum):
    """Why a session ended."""

    DELETED = auto()
    IDLE = auto()
    LIFE = auto()  # It had all the time that there is.
    LOST = auto()  # It could not be restarted.
    SHUTDOWN = auto()  # The service ends.


class Loss(Enum):
    """Why an interpreter was lost."""

    KILLED = auto()  # By us: it ran for too long, wrote too much, or its caller wanted it.
    LIMIT = auto()  # It needed too much memory or processor time.
    CRASHED = auto()  # It ended by itself.
    JAIL = auto()  # Something else ended the jail, such as the end of its engine.


def loss(ending: Ending, *, killed: bool) -> Loss:
    if killed:
        return Loss.KILLED
    if ending.breach is not None:
        return Loss.LIMIT
    return Loss.JAIL if ending.status is None else Loss.CRASHED


@dataclass(frozen=True, slots=True, kw_only=True)
class Aftermath:
    """What an execution has left of its session."""

    restarted: bool = False  # It has a new interpreter, without variables.
    files_lost: bool = False
    ended: bool = False


# What is not here changes nothing: an event came too late.
STEPS: Mapping[tuple[State, Event], State] = {
    (State.STARTING, Event.OPENED): State.IDLE,
    (State.IDLE, Event.BEGAN): State.BUSY,
    (State.BUSY, Event.FINISHED): State.IDLE,
    (State.IDLE, Event.LOST): State.STARTING,
    (State.BUSY, Event.LOST): State.STARTING,
    (State.STARTING, Event.CLOSED): State.ENDED,
    (State.IDLE, Event.CLOSED): State.ENDED,
    (State.BUSY, Event.CLOSED): State.ENDED,
}


class Life:
    def __init__(self, *, now_s: float, idle_s: float, life_s: float) -> None:
        self.state = State.STARTING
        self.ends_s = now_s + life_s
        self.restart_count = 0
        self._idle_s = idle_s
        self._used_s = now_s
        self._idle_loss_count = 0
        self._is_loss_untold = False

    def on(self, event: Event, now_s: float) -> bool:
        """Take `event` in. Return whether it changed anything."""
        before, after = self.state, STEPS.get((self.state, event))
        if after is None:
            return False
        self.state = after
        match event:
            case Event.FINISHED:
                self._idle_loss_count = 0
            case Event.LOST:
                self.restart_count += 1
                self._idle_loss_count = self._idle_loss_count + 1 if before is State.IDLE else 0
                self._is_loss_untold = True
        if not self._idle_loss_count:  # What breaks by itself is not in use.
            self.touch(now_s)
        return True

    def touch(self, now_s: float) -> None:
        """It is in use: idleness begins anew."""
        self._used_s = max(self._used_s, now_s)

    def tell_loss(self) -> bool:
        """Return whether a loss is still to be told. It is, by whoever asks."""
        is_untold, self._is_loss_untold = self._is_loss_untold, False
        return is_untold

    @property
    def expires_s(self) -> float:
        """When it ends if nothing more happens."""
        if self.state is State.IDLE:
            return min(self.ends_s, self._used_s + self._idle_s)
        return self.ends_s

    def expired(self, now_s: float) -> Cause | None:
        """Why it has to end now; None if it need not."""
        if self.state is State.ENDED or now_s < self.expires_s:
            return None
        return Cause.LIFE if now_s >= self.ends_s else Cause.IDLE

    @property
    def is_over(self) -> bool:
        return self.state is State.ENDED

    @property
    def may_restart(self) -> bool:
        return self.restart_count <= RESTARTS_MAX and self._idle_loss_count <= IDLE_LOSSES_MAX
