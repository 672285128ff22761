"""What the service needs from a way to jail code."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from services.sandbox.core.lifecycle import Ending
from services.sandbox.core.limits import Limits
from services.sandbox.profiles import Profile

STARTING = "the engine is starting"  # The problem of jails that cannot say yet what it is.


class Stream(Enum):
    """What a program writes to. RESULTS carries frames (see core.results), and nobody vouches for them."""

    STDOUT = "stdout"
    STDERR = "stderr"
    RESULTS = "results"


Write = Callable[[Stream, bytes], None]


@dataclass(frozen=True, slots=True)
class Warm:
    """Jails that are ready, and how many there should be."""

    count: int = 0
    wanted_count: int = 0


@dataclass(frozen=True, slots=True)
class Program:
    code: bytes
    stdin: bytes
    stdin_open: bool = False  # More follows, by `Jail.feed`.


@dataclass(frozen=True, slots=True)
class Strength:
    """What an engine can and cannot do on this machine."""

    enforced_limits: tuple[str, ...]  # By the kernel, for the execution as a whole.
    weaknesses: tuple[str, ...]  # Sentences.


class Jail(Protocol):
    """Single-use: it runs one program and is gone."""

    def begin(self, program: Program, write: Write) -> None:
        """Run `program`; `write` gets its output as it comes. Raises SandboxUnavailable."""
        ...

    async def feed(self, data: bytes, *, end: bool) -> None:
        """Add to the standard input of what runs; return when that is on its way.

        What a program does not read any more is dropped. Cancelled, it may have passed a part on.
        """
        ...

    def interrupt(self) -> None:
        """Send SIGINT to what runs, which may handle it. Raises SandboxUnavailable if it cannot be sent."""
        ...

    def kill(self) -> None:
        """End whatever is in it at once. Idempotent, and good at any time."""
        ...

    async def ended(self) -> Ending:
        """Return when every process of the program is dead and all of its output is written."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    path: str  # Relative to the session's folder, with "/".
    size_bytes: int
    is_folder: bool
    modified_s: float  # Since the epoch.


class Files(Protocol):
    """The working folder of a session.

    Paths have passed core.paths. Names are resolved inside the jail, with its rights, and no link is followed.
    Raises FileNotFound, FileNotRegular, FileTooLarge, or SandboxUnavailable if the jail is lost.
    """

    async def put(self, path: str, size_bytes: int, chunks: AsyncIterator[bytes]) -> FileEntry:
        """Write a file, and the folders it needs, whole or not at all. `chunks` hold `size_bytes` in all."""
        ...

    def get(self, path: str, *, offset: int) -> AsyncGenerator[FileEntry | bytes, None]:
        """First what it is, then its bytes from `offset` on, as it is when it is opened."""
        ...

    async def list(self, path: str, *, after: str, count_max: int) -> Sequence[FileEntry]:
        """Up to `count_max` entries of a folder whose name comes after `after`, by name."""
        ...

    async def delete(self, path: str) -> None:
        """Remove a file, or a folder with what is in it, if it is there."""
        ...


class SessionJail(Jail, Protocol):
    """Runs one program after another in one interpreter, which keeps its variables, and one folder.

    `begin` raises nothing new; between programs the interpreter stands still. `interrupt` and `feed` are for the
    program that runs. After `kill`, or any other end of it, `finished` and `ended` return.
    """

    @property
    def alive(self) -> bool: ...

    @property
    def files(self) -> Files: ...

    async def finished(self) -> Ending:
        """Return when the program begun last has ended and all of its output is written.

        Only its interpreter goes on: processes that it left are ended. If `alive` is false then, the jail is gone
        with it.
        """
        ...


class Jails(Protocol):
    """Makes jails of one profile, by one engine."""

    engine: str  # Such as "ns".

    @property
    def profile(self) -> Profile: ...

    @property
    def problem(self) -> str | None:
        """Why it makes none now, as a sentence; None if it does."""
        ...

    @property
    def strength(self) -> Strength: ...

    @property
    def warm(self) -> Warm: ...

    async def take(self, limits: Limits) -> Jail:
        """A fresh jail. Raises SandboxUnavailable."""
        ...

    async def open(self, limits: Limits) -> SessionJail:
        """A fresh jail for a session. Raises SandboxUnavailable, or SessionsNotSupported."""
        ...

    async def run(self) -> None:
        """Until cancelled; then nothing of it is left."""
        ...
