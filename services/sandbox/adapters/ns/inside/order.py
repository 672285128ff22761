"""What passes between the service and the zygote, and between the service and a jail.

Each message is one packet of JSON on a SOCK_SEQPACKET socket, with descriptors beside it. This module
is imported on both sides, so that they cannot disagree.

    service -> zygote   Order, with [the jail's socket, cgroup.procs...]
    zygote -> service   Ready or Failed; for each Order Born, with [the jail's pidfd], and later Reaped
    jail -> service     Ready or Failed

and then, for one program, or for a session:

    service -> jail     ONLY, or TRIAL if the interpreter itself is to run it whatever the profile says, with a
                        program's descriptors; later SIGINT or SIGTERM
    jail -> service     after the program's end Ended

    service -> jail     SESSION; then Run, with a program's descriptors, Interrupt, and when it is to end Kill
                        Put, Get and List, each with [its end of a pipe], and Delete
    jail -> service     Finished, for each Run; after the end of the session's interpreter Ended
                        Found, for a Get, a List and at the end of a Put; Closed, for each of the four
"""

import json
from dataclasses import dataclass, fields
from typing import get_args

PACKET_BYTES_MAX = 8192
PROGRAM_DESCRIPTORS_COUNT = 5  # Code, stdin, stdout, stderr, results.
ONLY, TRIAL, SESSION = b"only", b"trial", b"session"


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
    """The jail waits for a program, the zygote for orders."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The jail could not be built, or the zygote not import what its profile names."""

    why: str


@dataclass(frozen=True, slots=True)
class Ended:
    """How the program ended: exit code, or minus the signal, as in subprocess. All of its processes are dead."""

    status: int | None  # None: nobody told.
    breach: str | None  # "memory" or "cpu" if the meter ended it.
    cpu_s: float
    peak_memory_bytes: int  # As the meter saw it, and at least that of the largest process.
    files_full: bool  # No byte or no file more could be written at the end.


@dataclass(frozen=True, slots=True)
class Run:
    """The next program of a session, please."""


@dataclass(frozen=True, slots=True)
class Interrupt:
    """SIGINT to the program that runs, if one does."""


@dataclass(frozen=True, slots=True)
class Kill:
    """Everything is to end."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program of a session ended. All of its processes are dead, but for the interpreter, which stands still."""

    status: int
    cpu_s: float  # Of this program.
    peak_memory_bytes: int
    files_full: bool


@dataclass(frozen=True, slots=True)
class Put:
    """What comes through the pipe is to be the file."""

    transfer_id: int
    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Get:
    """The file is to go through the pipe."""

    transfer_id: int
    path: str
    offset: int


@dataclass(frozen=True, slots=True)
class List:
    """What is in the folder is to go through the pipe, as JSON."""

    transfer_id: int
    path: str
    after: str
    count_max: int


@dataclass(frozen=True, slots=True)
class Delete:
    transfer_id: int
    path: str


@dataclass(frozen=True, slots=True)
class Found:
    """What the file is."""

    transfer_id: int
    size_bytes: int
    modified_s: float


@dataclass(frozen=True, slots=True)
class Closed:
    """Nothing follows for this transfer."""

    transfer_id: int
    error: str | None  # One of guest.files.


FileOrder = Put | Get | List | Delete
Message = (
    Order
    | Born
    | Reaped
    | Ready
    | Failed
    | Ended
    | Run
    | Interrupt
    | Kill
    | Finished
    | FileOrder
    | Found
    | Closed
)
_KINDS = {kind.__name__: kind for kind in get_args(Message)}


def pack(message: Message) -> bytes:
    values = [getattr(message, field.name) for field in fields(message)]
    return json.dumps([type(message).__name__, *values]).encode()


def unpack(packet: bytes) -> Message:
    """Raise ValueError if it is not a message."""
    try:
        name, *values = json.loads(packet)
        message: Message = _KINDS[name](*values)
    except (KeyError, TypeError) as error:
        raise ValueError("not a message") from error
    return message
