"""What became of every request, and where every instance's time went: the simulation's own books.

They are kept from what the machines say, not from what the scheduler believes.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from services.inference.simulation.parts import Request
from services.inference.simulation.trace import Arrival


class Verdict(StrEnum):
    COMPLETED = "completed"
    QUEUE_FULL = "queue_full"
    DEADLINE_UNREACHABLE = "deadline_unreachable"
    DISPLACED = "displaced"  # It had a place in the queue, and lost it to somebody with a better right.
    QUEUE_TIMEOUT = "queue_timeout"
    DEADLINE_MISSED = "deadline_missed"  # It was accepted, and its deadline passed.
    LEFT = "left"
    INSTANCE_FAILED = "instance_failed"


REFUSED = (Verdict.QUEUE_FULL, Verdict.DEADLINE_UNREACHABLE, Verdict.DISPLACED)


@dataclass(slots=True, eq=False)
class Call:
    """A request's life. Times are the simulation's; -1 for what did not happen."""

    arrival: Arrival
    request: Request
    place: int = -1  # The instance's number.
    offered_s: float = -1.0
    first_token_s: float = -1.0
    started_s: float = -1.0  # When it had its slot.
    ended_s: float = -1.0
    verdict: Verdict | None = None  # None as long as it is under way.


@dataclass(frozen=True, slots=True)
class Span:
    """Somebody had a slot."""

    began_s: float
    ended_s: float
    tenant: str


@dataclass(slots=True)
class MachineBooks:
    name: str
    slots: int
    spans: list[Span] = field(default_factory=list)
    loads: list[tuple[float, float]] = field(default_factory=list)  # From when to when.


@dataclass(frozen=True, slots=True, kw_only=True)
class Time:
    """An instance's time. busy + load + idle = wall, and the tenants' together are busy."""

    tenants: Mapping[str, float]
    busy_s: float
    load_s: float  # Something was loaded while nobody had a slot.
    idle_s: float


@dataclass(slots=True)
class Ran:
    """A simulation's result."""

    calls: list[Call]
    machines: list[MachineBooks]
    ended_s: float  # When the last one was done with; it began at 0.
    loads: Counter[str]  # By cause.


def time_of(books: MachineBooks, wall_s: float) -> Time:
    """Share an instance's time among those who had a slot at once: 1/n each while there were n."""
    edges: list[tuple[float, int, str]] = []
    for span in books.spans:
        edges.append((span.began_s, 1, span.tenant))
        edges.append((span.ended_s, -1, span.tenant))
    for began_s, ended_s in books.loads:
        edges.append((began_s, 2, ""))
        edges.append((ended_s, -2, ""))
    edges.append((wall_s, 0, ""))
    edges.sort()
    tenants: dict[str, float] = {}
    had: Counter[str] = Counter()  # Slots by tenant.
    slots = loading = 0
    before_s = busy_s = load_s = 0.0
    for at_s, step, tenant in edges:
        passed_s = at_s - before_s
        before_s = at_s
        if slots:
            busy_s += passed_s
            for name, count in had.items():
                tenants[name] = tenants.get(name, 0.0) + passed_s * count / slots
        elif loading:
            load_s += passed_s
        if abs(step) == 1:
            slots += step
            had[tenant] += step
            if not had[tenant]:
                del had[tenant]
        else:
            loading += step // 2
    return Time(tenants=tenants, busy_s=busy_s, load_s=load_s, idle_s=wall_s - busy_s - load_s)
