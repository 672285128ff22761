"""How programs arrive at the process that runs them, and how it tells a session's init of them.

init -> us    ONE, with the descriptors of the only program there will be, or NEXT, with those of one of a session
us -> init    for each NEXT: STARTED, from when on the program can be interrupted; "ended", with its status
"""

import os
import re
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NoReturn, Protocol

from services.sandbox.guest import streams
from services.sandbox.guest.interpreter import INTERRUPTED, Interpreter
from services.sandbox.guest.results import Results

from .order import PACKET_BYTES_MAX, PROGRAM_DESCRIPTORS_COUNT, TRIAL

NEXT, STARTED = b"next", b"started"
_ENDED = re.compile(rb"ended (-?[0-9]{1,3})")

# Descriptors, where programs do not expect them, nor find them in their way: the last below their limit.
RESULTS, CHANNEL = 255, 254


class Runner(Protocol):
    """Of guest.interpreter or guest.command."""

    results: Results

    def prepare(self) -> None:
        """Before there is a program."""
        ...

    def run_last(self, program: bytes) -> int:
        """The only one, and return its exit code if it comes back."""
        ...

    def run(self, program: bytes, started: Callable[[], object]) -> int:
        """One of several. `started` is to be called when it can be interrupted."""
        ...


def run_all(init: socket.socket, runner: Runner) -> NoReturn:
    """Run what comes from `init`, and end."""
    said, descriptors = _receive(init)
    if said == TRIAL:
        runner = Interpreter(TRIAL.decode())
        runner.prepare()
    if said != NEXT:
        init.close()
        source = _take(descriptors, runner.results)
        os._exit(runner.run_last(source))
    os.dup2(init.detach(), CHANNEL, inheritable=False)
    _run_on(socket.socket(fileno=CHANNEL), runner, descriptors)


def told_status(said: bytes) -> int | None:
    """The status with which a program has ended, if that is what is said: exit code, or minus the signal."""
    found = _ENDED.fullmatch(said)
    return int(found[1]) if found and -signal.NSIG < int(found[1]) <= 0xFF else None


def _run_on(init: socket.socket, runner: Runner, descriptors: list[int]) -> NoReturn:
    """Run one program after another. Between them nothing interrupts us, and what comes too late is forgotten.

    That takes two things: a signal that is ignored is forgotten only if it is not blocked as well.
    """
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        source = _take(descriptors, runner.results)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, handler or signal.default_int_handler)
        try:
            status = runner.run(source, partial(init.send, STARTED))
        except KeyboardInterrupt:  # In a moment in which nobody else could take it.
            status = INTERRUPTED
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        _let_go(runner.results)
        init.send(f"ended {status}".encode())
        _, descriptors = _receive(init)
        _bury()


def _bury() -> None:
    """What the program before has left was killed; until we ask for it, it counts against the limit of processes."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _receive(init: socket.socket) -> tuple[bytes, list[int]]:
    said, descriptors, _, _ = socket.recv_fds(init, PACKET_BYTES_MAX, PROGRAM_DESCRIPTORS_COUNT)
    if len(descriptors) != PROGRAM_DESCRIPTORS_COUNT:
        os._exit(1)
    return said, descriptors


def _take(descriptors: list[int], results: Results) -> bytes:
    """Have the standard streams and the one for results in their places. Return the code."""
    code, *standard, told = descriptors
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.dup2(told, RESULTS, inheritable=False)
    os.close(told)
    results.open(RESULTS)
    streams.open_all()
    with open(code, "rb") as file:  # noqa: PTH123 -- a descriptor.
        return file.read()


def _let_go(results: Results) -> None:
    """A program's streams must end with the program, though what it left open may be written to later."""
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    if null > 2:  # The program may have closed one of them.
        os.close(null)
    results.close()
    with suppress(OSError):
        os.close(RESULTS)
