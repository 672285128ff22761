"""The process that becomes the program.

It is made before there is a program, does all that can be done without one, and sleeps until the code arrives.
"""

import atexit
import builtins
import io
import linecache
import os
import random
import resource
import sys
import threading
import traceback
import types
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from .wire import RESULTS, STDERR, STDIN, STDOUT, Begin, Make

UID = 65534
OPEN_FILES_MAX = 256
LOCKED_BYTES_MAX = 1 << 20
_RESULTS = 3  # Of the program.


def inhabit(wake: int, make: Make, begin: Callable[[int], tuple[Begin, bytes]]) -> NoReturn:
    """Wait, by `begin`, on `wake` for a program, become it, and end."""
    _give_up_rights()
    _take_streams(wake)
    _rehearse()
    order, code = begin(wake)
    os.close(wake)
    _limit(order)
    os.chdir("/work")
    random.seed()
    if make.command:
        _become(make, code)
    sys.argv[:] = [make.file_name]
    os._exit(_run(code, make.file_name))


def _give_up_rights() -> None:
    os.setsid()
    os.umask(0o077)
    os.setgroups([])
    os.setresgid(UID, UID, UID)
    os.setresuid(UID, UID, UID)  # Which takes every capability away.


def _take_streams(wake: int) -> None:
    for number, stream in enumerate((STDIN, STDOUT, STDERR, RESULTS)):
        os.dup2(stream, number)
    os.closerange(_RESULTS + 1, wake)
    os.closerange(wake + 1, OPEN_FILES_MAX)
    _open_streams()


def _open_streams() -> None:
    """Like a plain interpreter's, but by line, so that what was printed before a kill is not lost."""
    stdin = io.BufferedReader(io.FileIO(0, "r", closefd=False))
    sys.stdin = io.TextIOWrapper(stdin, "utf-8", "surrogateescape")
    for name, number in (("stdout", 1), ("stderr", 2)):
        raw = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
        setattr(sys, name, io.TextIOWrapper(raw, "utf-8", "backslashreplace", line_buffering=True))
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, f"__{name}__", getattr(sys, name))


def _rehearse() -> None:
    """Touch the pages that every program touches: a first write to a page that a fork shares is dear."""
    code = compile("import sys\nfor i in range(3): str(i)", "rehearsal", "exec")
    exec(code, {"__builtins__": builtins})  # noqa: S102 -- our own.


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


def _become(make: Make, code: bytes) -> NoReturn:
    with open(make.file_name, "wb") as file:  # noqa: PTH123 -- as plain as its neighbours.
        file.write(code)
    os.execvp(make.command[0], [*make.command, make.file_name])  # noqa: S606 -- that is what it is for.


def _run(source: bytes, name: str) -> int:
    """Run `source` as a main program. Return its exit code."""
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main
    sys.path.insert(0, "/work")
    text = source.decode("utf-8", "replace")
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)

    def execute() -> None:
        code = compile(source, name, "exec", dont_inherit=True)
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
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
            frames = frames.tb_next
        with suppress(BaseException):  # Its own __str__, or its closed stderr, must not stop us.
            traceback.print_exception(type(error), error, frames)
        return 1
    return 0
