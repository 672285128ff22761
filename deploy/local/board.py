"""The notice board: `stack.json`, which tells other processes what the supervisor knows.

It is rewritten whole by rename, so a reader sees one moment. It outlives a crash; then the supervisor
named in it is not alive any more, by pid and birth, and what it says is only a list of what to clean up.
"""

import os
from pathlib import Path

import msgspec
from msgspec import Struct

from deploy.local.probes import Probe
from deploy.local.process import Identity, is_alive


class PartNotice(Struct, frozen=True, kw_only=True):
    name: str
    state: str
    since: float  # Seconds since the epoch.
    restarts: int
    reason: str
    port: int | None
    process: Identity | None
    log: str
    probe: Probe | None
    metrics: str = ""


class Board(Struct, frozen=True, kw_only=True):
    supervisor: Identity
    warden: Identity | None
    ready: bool
    edge: str
    edge_tls: str = ""
    model_source: str
    parts: tuple[PartNotice, ...] = ()

    @property
    def processes(self) -> list[Identity]:
        """All that must be gone when the stack is down."""
        known = (self.warden, self.supervisor, *(part.process for part in self.parts))
        return [identity for identity in known if identity is not None]


def path(home: Path) -> Path:
    return home / "stack.json"


def write(home: Path, board: Board) -> None:
    unfinished = path(home).with_suffix(".unfinished")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(board))
    unfinished.replace(path(home))


def read(home: Path) -> Board | None:
    """None if there is none, or one of another version of ourselves."""
    try:
        return msgspec.json.decode(path(home).read_bytes(), type=Board)
    except (OSError, msgspec.MsgspecError):
        return None


def of_running(home: Path) -> Board | None:
    """The board of a supervisor that is alive."""
    board = read(home)
    return board if board is not None and is_alive(board.supervisor) else None


def remove(home: Path) -> None:
    path(home).unlink(missing_ok=True)
