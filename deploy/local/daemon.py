"""The supervisor's process: started by `up` and left alone by it.

Invariants: one per OLLAMESH_HOME, by a lock on the folder itself, which needs no file and cannot become
stale; while it lives `stack.json` names it; when it ends by itself no process and no `stack.json` is left.
"""

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from deploy.local import board, warden
from deploy.local.board import Board, PartNotice
from deploy.local.errors import PartFailedError, StackError, disk_full
from deploy.local.logs import Log
from deploy.local.messages import Busy, Failed, Progress, Ready, Sender
from deploy.local.part import Part
from deploy.local.plan import make_folder
from deploy.local.process import end_all, identify
from deploy.local.supervisor import Supervisor
from services.common.restarts import RestartPolicy

PREVIOUS_WITHIN_S = 10.0  # What a killed supervisor left is going anyway; PostgreSQL writes a checkpoint.

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a home's supervisor is to run."""

    parts: tuple[Part, ...] = ()
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    edge: str = ""
    model_source: str = ""


def serve(home: Path, prepare: Callable[[], Prepared], sender: Sender) -> None:
    """Hold `home` and run its parts until told to stop. Sends exactly one last message."""
    try:
        make_folder(home, "OLLAMESH_HOME")
        with _held(home) as is_ours:
            if not is_ours:
                sender.send(Busy())
                return
            _serve(home, prepare, sender)
    except StackError as error:
        sender.send(_failed(str(error)))
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        sender.send(_failed(disk_full(home) if full else f"{error.filename}: {error.strerror}"))


def _serve(home: Path, prepare: Callable[[], Prepared], sender: Sender) -> None:
    _log_to(home / "logs" / "supervisor.log")
    previous = board.read(home)
    board.write(home, _board(Prepared(), (), ready=False))
    try:
        if previous is not None:
            end_all(previous.processes, within_s=PREVIOUS_WITHIN_S)
        asyncio.run(_run(home, prepare(), sender))
        warden.end_children(patience_s=0.0)
        sender.send(_failed("it was stopped before it was ready"))
    finally:
        board.remove(home)


async def _run(home: Path, prepared: Prepared, sender: Sender) -> None:
    announcer = _Announcer(home, prepared, sender)
    supervisor = Supervisor(
        prepared.parts, home, publish=announcer.publish, note=announcer.note, policy=prepared.policy
    )

    def stop() -> None:
        warden.adopt_orphans()  # Ours is perhaps no more: its death, too, is a reason to stop.
        supervisor.stop()

    sender.on_lost = stop  # Whoever wanted the stack has gone before it was ready.
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    if (failure := await supervisor.run()) is not None:
        raise PartFailedError(failure.name, failure.reason, home / "logs" / f"{failure.name}.log")


class _Announcer:
    """Tells the notice board everything, and the waiting `up` what is new."""

    def __init__(self, home: Path, prepared: Prepared, sender: Sender) -> None:
        self._home, self._prepared, self._sender = home, prepared, sender
        self._states: dict[str, str] = {}

    def publish(self, notices: Sequence[PartNotice], ready: bool) -> None:  # noqa: FBT001 - Publish has it.
        try:
            board.write(self._home, _board(self._prepared, notices, ready=ready))
        except OSError as error:  # A disk that fills up must not end what runs.
            log.warning("board_not_written error=%s", error)
        before = self._states
        self._states = {notice.name: notice.state for notice in notices}
        if "failed" in self._states.values():
            return  # The last message will say why; how the others stop is of no interest.
        for name, state in self._states.items():
            if before.get(name) != state and state != "waiting":
                self._sender.send(Progress(name, state))
        if ready:
            self._sender.send(Ready())

    def note(self, part: str, line: str) -> None:
        if self._states.get(part) in {"preparing", "starting"}:
            self._sender.send(Progress(part, line))


def _failed(sentence: str) -> Failed:
    return Failed(sentence, warden=identify(os.getppid()))


def _board(prepared: Prepared, notices: Sequence[PartNotice], *, ready: bool) -> Board:
    me = identify(os.getpid())
    assert me is not None
    return Board(
        supervisor=me,
        warden=identify(os.getppid()),
        ready=ready,
        edge=prepared.edge,
        model_source=prepared.model_source,
        parts=tuple(notices),
    )


@contextlib.contextmanager
def _held(home: Path) -> Iterator[bool]:
    folder = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(folder)


def _log_to(path: Path) -> None:
    """Our own lines, and whatever Python itself has to say."""
    with Log(path).begin() as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")


def main(home: Path, prepare: Callable[[], Prepared]) -> NoReturn:
    """A bug ends the process at once: then the kernel and the warden end the parts."""
    code = 1
    try:
        serve(home, prepare, Sender())
        code = 0
    except BaseException:
        log.exception("supervisor_failed")
    finally:
        logging.shutdown()
        os._exit(code)  # Threads may still be waiting for processes.
