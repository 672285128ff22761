"""What an attack is: a program, and what would be a breach.

The program is written with `guest.py` before it. It says of each of its acts whether it was refused, and at the end
that it has tried them all. A case fails if an act was not refused, if the program did not get to its end, or if
something of `Outside` was touched.

A check that cannot fail proves nothing, so cases say how it would: either the same program runs in a weakened jail, in
which every act must succeed (`weak`); or it shows by itself, with `sees`, that it would have seen a breach; or nothing
but one outcome will do, such as OOM.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from google.protobuf.duration_pb2 import Duration
from ollamesh.sandbox.v1 import execution_pb2 as pb


class Weak(Enum):
    """The weakened jail: no filter, no Landlock, every capability in namespaces of its own, planted files in sight."""

    CLOSED = auto()  # It has all namespaces.
    OPEN = auto()  # It shares the host's network and processes.


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    name: str
    breach: str  # What would be one, for people.
    code: str
    outcomes: Sequence[str] = ("OK",)
    exit_code: int | None = None
    signal: int | None = None
    limits: pb.Limits = field(default_factory=pb.Limits)
    stdin: bytes = b""
    within_s: float = 30.0  # Generous: it is to catch what never ends, and machines are slow.
    engines: Sequence[str] = ("ns", "gvisor")
    users: Sequence[str] = ("root", "user")
    broken: Mapping[str, str] = field(
        default_factory=dict
    )  # User to the reason why it is not refused there yet.
    weak: Weak | None = None
    unseen: Sequence[str] = ()  # Acts that fail in the weakened jail, too: there only for depth.

    def __str__(self) -> str:
        return self.name

    @property
    def gets_through(self) -> bool:
        """Whether the program must get to its end."""
        return tuple(self.outcomes) == ("OK",)


def wall(seconds: float, *, memory_bytes: int = 0) -> pb.Limits:
    duration = Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
    return pb.Limits(wall=duration, memory_bytes=memory_bytes)
