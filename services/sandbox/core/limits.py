"""What an execution may use: defaults, the operator's caps, and what a caller asks for."""

from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

MIB = 1 << 20

# Below these an interpreter does not start, and the answer would be a riddle instead of an outcome.
MEMORY_BYTES_MIN = 48 * MIB
FILES_BYTES_MIN = 64 << 10


class LimitKind(Enum):
    """Names a field of Limits."""

    WALL = "wall"
    MEMORY = "memory"
    CPU = "cpu"
    PROCESSES = "processes"
    OUTPUT = "output"
    FILES = "files"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    wall_s: float = 10.0
    memory_bytes: int = 512 * MIB
    cpu_s: float | None = None  # Of all its processes together. None: bounded by wall_s alone.
    process_count: int = 64  # Processes and threads.
    output_bytes: int = MIB  # Of each stream; what exceeds it is dropped.
    files_bytes: int = 64 * MIB  # Of all files together.


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A caller's wish; None leaves the default."""

    wall_s: float | None = None
    memory_bytes: int | None = None
    cpu_s: float | None = None
    process_count: int | None = None
    output_bytes: int | None = None
    files_bytes: int | None = None


def granted(asked: Asked, cap: Limits) -> Limits:
    """The limits that hold: what was asked for, but never more than `cap` nor less than works."""
    return Limits(
        wall_s=_lower(asked.wall_s, cap.wall_s),
        memory_bytes=max(_lower(asked.memory_bytes, cap.memory_bytes), MEMORY_BYTES_MIN),
        cpu_s=asked.cpu_s if cap.cpu_s is None else _lower(asked.cpu_s, cap.cpu_s),
        process_count=max(_lower(asked.process_count, cap.process_count), 1),
        output_bytes=_lower(asked.output_bytes, cap.output_bytes),
        files_bytes=max(_lower(asked.files_bytes, cap.files_bytes), FILES_BYTES_MIN),
    )


_N = TypeVar("_N", int, float)


def _lower(asked: _N | None, cap: _N) -> _N:
    return cap if asked is None else min(asked, cap)
