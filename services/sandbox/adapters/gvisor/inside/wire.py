"""What passes between the service and the init of a jail: lines of JSON on two pipes.

    service -> init   Begin, followed by the code; then Interrupt, as often as wanted; Kill
    init -> service   Ready or Failed; after the program's end Ended

This module is imported on both sides, so that they cannot disagree.
"""

import json
from dataclasses import asdict, dataclass

# The init's descriptors. The last four become the program's standard streams and the one for its results.
CONTROL, TOLD, STDIN, STDOUT, STDERR, RESULTS = range(3, 9)


@dataclass(frozen=True, slots=True)
class Make:
    """What a jail is made for; the init's argument."""

    preimported: list[str]
    command: list[str]  # Empty: the code is for this very interpreter.
    file_name: str
    files_bytes: int  # That programs usually may fill.


@dataclass(frozen=True, slots=True)
class Begin:
    code_bytes: int  # That follow.
    process_count: int
    files_bytes: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Interrupt:
    """SIGINT for the program."""


@dataclass(frozen=True, slots=True)
class Kill:
    """End everything, and tell what it used."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The jail waits for a program."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The jail could not be built."""

    why: str


@dataclass(frozen=True, slots=True)
class Ended:
    """How the program ended, and that nothing of it is left: exit code, or minus the signal."""

    status: int | None
    breach: str | None  # "memory" if it was ended for that.
    reached: list[str]  # "processes" if it was ended for having too many, "files" if there is no room left.
    peak_memory_bytes: int


Message = Begin | Interrupt | Kill | Ready | Failed | Ended
_KINDS = {kind.__name__: kind for kind in (Begin, Interrupt, Kill, Ready, Failed, Ended)}


def pack(message: Message) -> bytes:
    return json.dumps([type(message).__name__, asdict(message)]).encode() + b"\n"


def unpack(line: bytes) -> Message:
    """Raise ValueError if it is no message."""
    try:
        name, fields = json.loads(line)
        return _KINDS[name](**fields)
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError("not a message") from error
