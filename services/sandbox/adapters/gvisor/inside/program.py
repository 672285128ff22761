"""The process that becomes the program.

It is made before there is a program, does all that can be done without one, and sleeps until the code arrives.
"""

import importlib
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from services.sandbox.adapters.ns.inside import filters
from services.sandbox.adapters.ns.inside.kernel import install_filter
from services.sandbox.guest.interpreter import WORKING_FOLDER, Interpreter

from .wire import RESULTS, STDERR, STDIN, STDOUT, Begin, Make

UID = 65534
OPEN_FILES_MAX = 256
LOCKED_BYTES_MAX = 1 << 20
TOLD = OPEN_FILES_MAX - 1  # Where results go: where programs do not expect it, nor find it in their way.

READY = b"1"

Wait = Callable[[int], tuple[Begin, bytes]]


def inhabit(wake: int, make: Make, wait: Wait) -> NoReturn:
    """Wait on `wake` for a program, become it, and end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    _give_up_rights()
    _take_streams(wake)
    _filter()
    if make.command:
        os.write(wake, READY)
        _run_by_command(make, *_received(wake, wait))
    for name in make.preimported:
        importlib.import_module(name)
    interpreter = Interpreter(make.file_name)
    interpreter.prepare()
    interpreter.results.open(TOLD)
    sys.argv[:] = [make.file_name]
    os.write(wake, READY)
    _, code = _received(wake, wait)
    os._exit(interpreter.finish(interpreter.run(code)))


def _give_up_rights() -> None:
    os.setsid()
    os.umask(0o077)
    os.setgroups([])
    os.setresgid(UID, UID, UID)
    os.setresuid(UID, UID, UID)  # Which takes every capability away.


def _take_streams(wake: int) -> None:
    for number, stream in enumerate((STDIN, STDOUT, STDERR)):
        os.dup2(stream, number)
    os.dup2(RESULTS, TOLD, inheritable=False)
    os.closerange(3, wake)
    os.closerange(wake + 1, TOLD)


def _filter() -> None:
    """Leave what programs have in the engine `ns`, too. gVisor refuses most of the rest, and some it only should."""
    machine = os.uname().machine
    for rules in (filters.zygote(machine), filters.child(machine)):
        install_filter(rules)


def _received(wake: int, wait: Wait) -> tuple[Begin, bytes]:
    order, code = wait(wake)
    os.close(wake)
    _limit(order)
    os.chdir(WORKING_FOLDER)
    return order, code


def _limit(order: Begin) -> None:
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: OPEN_FILES_MAX,
        resource.RLIMIT_FSIZE: order.files_bytes,
        resource.RLIMIT_MEMLOCK: LOCKED_BYTES_MAX,
    }
    for limit, value in limits.items():
        with suppress(ValueError):  # It is lower already.
            resource.setrlimit(limit, (value, value))


def _run_by_command(make: Make, _order: Begin, code: bytes) -> NoReturn:
    Path(make.file_name).write_bytes(code)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.execvp(make.command[0], [*make.command, make.file_name])  # noqa: S606 -- that is what it is for.
