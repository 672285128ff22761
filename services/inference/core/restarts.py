"""When an Ollama server that the service runs itself is started again. It begins WAITING.

RUNNING   its process ended               WAITING, for longer each time
RUNNING   a restart was asked for         ENDING, if the budget allows one more
ENDING    its process ended               WAITING
RUNNING,  its process ended once too      GIVEN_UP, for `cool_down_s`
ENDING    often within `window_s`
WAITING,  its time has passed             RUNNING
GIVEN_UP
"""

from dataclasses import dataclass, field
from enum import Enum

from services.common.restarts import RestartBudget, RestartPolicy


class Phase(Enum):
    RUNNING = "running"
    ENDING = "ending"
    WAITING = "waiting"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedPolicy:
    """A server that loads models takes seconds to be of use, so it is given more time than a part of a stack."""

    restarts: RestartPolicy = field(
        default_factory=lambda: RestartPolicy(
            first_delay_s=0.5, longest_delay_s=30.0, restarts_max=5, window_s=300.0
        )
    )
    cool_down_s: float = 600.0


class Restarts:
    """Of one server. `reason` says why it does not run; it is empty while it does."""

    def __init__(self, policy: OwnedPolicy) -> None:
        self._policy = policy
        self._budget = RestartBudget(policy.restarts)
        self._cause = ""  # Why its end was asked for.
        self.phase = Phase.WAITING
        self.reason = ""

    def ask(self, cause: str, now_s: float) -> bool:
        """Return whether it is started anew. Only true in RUNNING is there something to be ended."""
        match self.phase:
            case Phase.ENDING | Phase.WAITING:
                return True
            case Phase.RUNNING if not self._budget.is_spent(now_s):
                self.phase, self._cause = Phase.ENDING, cause
                return True
            case _:
                return False

    def ended(self, how: str, now_s: float) -> float:
        """Its process ended. Return how long to wait before starting the next."""
        why = f"it was stopped because {self._cause}" if self._cause else f"its process {how}"
        self._cause = ""
        delay_s = self._budget.died(now_s)
        if delay_s is None:
            self.phase = Phase.GIVEN_UP
            self.reason = f"{why}, too often; it is given up for {self._policy.cool_down_s:g} s"
            self._budget = RestartBudget(self._policy.restarts)
            return self._policy.cool_down_s
        self.phase = Phase.WAITING
        self.reason = f"{why}; it is about to be started again"
        return delay_s

    def started(self) -> None:
        """A process was started."""
        self.phase, self.reason = Phase.RUNNING, ""
