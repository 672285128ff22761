"""What the engine needs from a way to jail code."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from services.sandbox.core.lifecycle import Ending
from services.sandbox.core.limits import Limits


class Stream(Enum):
    STDOUT = "stdout"
    STDERR = "stderr"


Write = Callable[[Stream, bytes], None]


@dataclass(frozen=True, slots=True)
class Program:
    code: bytes
    stdin: bytes


@dataclass(frozen=True, slots=True)
class Strength:
    """What an engine can and cannot do on this machine."""

    runtime: str  # Such as "python 3.11".
    enforced_limits: tuple[str, ...]  # By the kernel, for the execution as a whole.
    weaknesses: tuple[str, ...]  # Sentences.


class Jail(Protocol):
    """Single-use: it runs one program and is gone."""

    def begin(self, program: Program, write: Write) -> None:
        """Run `program`; `write` gets its output as it comes. Raises SandboxUnavailable."""
        ...

    def kill(self) -> None:
        """End whatever is in it at once. Idempotent, and good at any time."""
        ...

    async def ended(self) -> Ending:
        """Return when nothing of it is left and all of its output is written."""
        ...


class Jails(Protocol):
    """An engine: makes jails."""

    name: str

    @property
    def problem(self) -> str | None:
        """Why it makes none now, as a sentence; None if it does."""
        ...

    @property
    def strength(self) -> Strength: ...

    async def take(self, limits: Limits) -> Jail:
        """A fresh jail, the caller's to end. Raises SandboxUnavailable."""
        ...

    async def run(self) -> None:
        """Keep jails ready until cancelled; leave none behind."""
        ...
