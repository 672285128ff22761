"""What passes between the service and the zygote, and between the service and a jail.

Each message is one packet of JSON on a SOCK_SEQPACKET socket, with descriptors beside it. This module
is imported on both sides, so that they cannot disagree.

    service -> zygote   Order, with [the jail's socket, cgroup.procs...]
    zygote -> service   Born, with [the jail's pidfd]; later Reaped
    service -> jail     anything, with [code, stdin, stdout, stderr, results]; later SIGINT or SIGTERM
    jail -> service     Ready or Failed; after the program's end Ended
"""

import json
from dataclasses import dataclass, fields

PACKET_BYTES_MAX = 8192
PROGRAM_DESCRIPTORS_COUNT = 5


@dataclass(frozen=True, slots=True)
class Order:
    """One jail, please."""

    jail_id: int
    process_count: int  # Processes and threads of the program, by rlimit.
    files_bytes: int
    memory_bytes: int | None  # For the meter, where no cgroup limits memory.
    cpu_s: float | None  # For the meter.
    slot: int | None = None  # Which of the zygote's uids it gets; None: the zygote's own.


@dataclass(frozen=True, slots=True)
class Born:
    jail_id: int


@dataclass(frozen=True, slots=True)
class Reaped:
    """Nothing of the jail is left."""

    jail_id: int
    cpu_s: float  # With that of the init; without that of processes which it left to the kernel to reap.
    peak_memory_bytes: int  # Of its largest process.


@dataclass(frozen=True, slots=True)
class Ready:
    """The jail waits for a program."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The jail could not be built."""

    why: str


@dataclass(frozen=True, slots=True)
class Ended:
    """How the program ended: exit code, or minus the signal, as in subprocess. All of its processes are dead."""

    status: int | None  # None: nobody told.
    breach: str | None  # "memory" or "cpu" if the meter ended it.
    cpu_s: float
    peak_memory_bytes: int  # As the meter saw it, and at least that of the largest process.
    files_full: bool  # No byte or no file more could be written at the end.


Message = Order | Born | Reaped | Ready | Failed | Ended
_KINDS = {kind.__name__: kind for kind in (Order, Born, Reaped, Ready, Failed, Ended)}


def pack(message: Message) -> bytes:
    values = [getattr(message, field.name) for field in fields(message)]
    return json.dumps([type(message).__name__, *values]).encode()


def unpack(packet: bytes) -> Message:
    """Raise ValueError if it is not a message."""
    try:
        name, *values = json.loads(packet)
        return _KINDS[name](*values)
    except (KeyError, TypeError) as error:
        raise ValueError("not a message") from error
