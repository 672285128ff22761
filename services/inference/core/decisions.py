"""What the scheduler may decide. The engine carries it out, in order."""

from dataclasses import dataclass
from enum import StrEnum

from services.inference.core.jobs import Job


class Cause(StrEnum):
    """Why a model is loaded."""

    DEMAND = "demand"  # No instance had it.
    SPREAD = "spread"  # Those that have it are too busy.
    SWAP = "swap"  # As DEMAND or SPREAD, and another model had to go.
    ASKED = "asked"  # An operator wants it.
    SURPRISE = "surprise"  # The instance loaded it by itself: never decided, only found out.


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Run a job on an instance that has its model loaded and a slot free."""

    job: Job
    instance: str


@dataclass(frozen=True, slots=True)
class Expire:
    """Nothing could be done for a job in the time that it had."""

    job: Job


@dataclass(frozen=True, slots=True)
class Displace:
    """A job loses its waiting place to somebody with a better right to it."""

    job: Job
    waiting_max: int  # So many places there are, and all are taken.


@dataclass(frozen=True, slots=True)
class Fail:
    """No instance can load a job's model just now."""

    job: Job


@dataclass(frozen=True, slots=True)
class Load:
    instance: str
    model: str
    cause: Cause


@dataclass(frozen=True, slots=True)
class Unload:
    instance: str
    model: str


Decision = Dispatch | Expire | Displace | Fail | Load | Unload
