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


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """What somebody gets, by their role."""

    usual: Limits  # Who asks for nothing. Never more than `most`: see `lowered`.
    most: Limits  # Who asks for more gets this.


def granted(asked: Asked, caps: Caps) -> Limits:
    """The limits that hold: what was asked for, but never more than the most, nor less than works."""
    usual, most = caps.usual, caps.most
    return Limits(
        wall_s=_granted(asked.wall_s, usual.wall_s, most.wall_s),
        memory_bytes=max(
            _granted(asked.memory_bytes, usual.memory_bytes, most.memory_bytes), MEMORY_BYTES_MIN
        ),
        cpu_s=_lower(usual.cpu_s if asked.cpu_s is None else asked.cpu_s, most.cpu_s),
        process_count=max(_granted(asked.process_count, usual.process_count, most.process_count), 1),
        output_bytes=_granted(asked.output_bytes, usual.output_bytes, most.output_bytes),
        files_bytes=max(_granted(asked.files_bytes, usual.files_bytes, most.files_bytes), FILES_BYTES_MIN),
    )


def lowered(limits: Limits, most: Limits) -> Limits:
    """Each of `limits`, but no more than of `most`."""
    return Limits(
        wall_s=min(limits.wall_s, most.wall_s),
        memory_bytes=min(limits.memory_bytes, most.memory_bytes),
        cpu_s=_lower(limits.cpu_s, most.cpu_s),
        process_count=min(limits.process_count, most.process_count),
        output_bytes=min(limits.output_bytes, most.output_bytes),
        files_bytes=min(limits.files_bytes, most.files_bytes),
    )


_N = TypeVar("_N", int, float)


def _granted(asked: _N | None, usual: _N, most: _N) -> _N:
    return min(usual if asked is None else asked, most)


def _lower(one: float | None, other: float | None) -> float | None:
    """The lower of two, where None is no limit."""
    return min((each for each in (one, other) if each is not None), default=None)
