"""The process that becomes the program.

It puts on what is left of the walls, says that it is ready, and sleeps until the code arrives: all that
can be done before is done before, so that a warm jail answers in a few milliseconds.
"""

import atexit
import builtins
import io
import linecache
import os
import random
import resource
import socket
import sys
import threading
import traceback
import types
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from . import kernel
from .order import Order

FILE_NAME = "main.py"
OPEN_FILES_MAX = 256
LOCKED_BYTES_MAX = 1 << 20
DATA_FACTOR = 4  # Of the metered limit: a backstop that no healthy program reaches before the meter.

READY = b"1"

_ALLOWED = [("/", kernel.LANDLOCK_READ), ("/dev/null", kernel.LANDLOCK_WRITE_FILE)]
_WRITABLE = ["/work", "/tmp", "/dev/shm"]  # noqa: S108 -- the jail's own.


def inhabit(init: socket.socket, order: Order, lock: Callable[[], None]) -> NoReturn:
    """Wait on `init` for a program, become it, and end. `lock` drops what only building needed."""
    os.setsid()
    Path("/proc/self/oom_score_adj").write_text("1000")
    _limit(order)
    os.umask(0o077)
    kernel.no_new_privileges()
    kernel.landlock(_ALLOWED, _WRITABLE)
    lock()
    _rehearse()
    init.send(READY)
    source = _receive(init)
    random.seed()
    os._exit(_run(source))


def _rehearse() -> None:
    """Do once, for nothing, what every program does.

    Whatever is written to for the first time after a fork is copied, page by page. Now nobody waits for it.
    """
    random.seed()
    _open_streams()
    exec(compile("print(1)", FILE_NAME, "exec"), {})  # noqa: S102 -- our own.


def _limit(order: Order) -> None:
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: OPEN_FILES_MAX,
        resource.RLIMIT_FSIZE: order.files_bytes,
        resource.RLIMIT_NPROC: order.process_count + 1,  # The init counts.
        resource.RLIMIT_MEMLOCK: LOCKED_BYTES_MAX,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if order.memory_bytes is not None:
        limits[resource.RLIMIT_DATA] = DATA_FACTOR * order.memory_bytes
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))


def _receive(init: socket.socket) -> bytes:
    """Take the standard streams into place and return the code."""
    _, descriptors, _, _ = socket.recv_fds(init, 1, 4)
    if len(descriptors) != 4:
        os._exit(0)
    init.close()
    code, *streams = descriptors
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    with open(code, "rb") as file:  # noqa: PTH123 -- a descriptor.
        source = file.read()
    os.closerange(3, 64)
    _open_streams()
    return source


def _open_streams() -> None:
    """Like a plain interpreter's, but by line, so that what was printed before a kill is not lost."""
    stdin = io.BufferedReader(io.FileIO(0, "r", closefd=False))
    sys.stdin = io.TextIOWrapper(stdin, "utf-8", "surrogateescape")
    for name, number in (("stdout", 1), ("stderr", 2)):
        raw = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
        setattr(sys, name, io.TextIOWrapper(raw, "utf-8", "backslashreplace", line_buffering=True))
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, f"__{name}__", getattr(sys, name))


def _run(source: bytes) -> int:
    """Run `source` as a main program. Return its exit code."""
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main
    sys.path.insert(0, "/work")
    text = source.decode("utf-8", "replace")
    linecache.cache[FILE_NAME] = (len(text), None, text.splitlines(keepends=True), FILE_NAME)

    def execute() -> None:
        code = compile(source, FILE_NAME, "exec", dont_inherit=True)
        exec(code, main.__dict__)  # noqa: S102 -- this is what the walls are for.

    exit_code = _guarded(execute)
    # As at the end of any program; `threading` waits for threads that are not daemons.
    for end in (threading._shutdown, atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):  # type: ignore[attr-defined]  # noqa: SLF001
        exit_code = _guarded(end) or exit_code
    return exit_code


def _guarded(act: Callable[[], object]) -> int:
    """Return the exit code that the interpreter would give to how `act` ended."""
    try:
        act()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)  # noqa: T201 -- what sys.exit("text") does.
        return 1
    except BaseException as error:  # noqa: BLE001 -- the program's own, told like any traceback.
        _print_traceback(error)
        return 1
    return 0


def _print_traceback(error: BaseException) -> None:
    """Without our own frames."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    with suppress(BaseException):  # Its own __str__, or its closed stderr, must not stop us.
        traceback.print_exception(type(error), error, frames)
