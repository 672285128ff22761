"""Runs programs as a plain interpreter would, and tells the value of the last expression as well."""

import atexit
import builtins
import linecache
import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import CodeType, ModuleType

from . import forms, results, source, streams
from .figures import MIME as FIGURE
from .figures import Figures
from .results import Results

WORKING_FOLDER = "/work"
SOURCES_COUNT_MAX = 100  # Of earlier programs, for tracebacks into them.
INTERRUPTED = 130  # As shells say it: 128 and SIGINT.

_OURS = str(Path(__file__).parent)


class Interpreter:
    """One namespace, `__main__`, and what every program in it finds: display, and figures that can be shown.

    SIGINT is let through only while a program runs. Whoever makes an interpreter blocks it.
    """

    def __init__(self, file_name: str) -> None:
        self.results = Results()
        self._figures = Figures(self.results.tell)
        self._file_name = file_name
        self._program_count = 0
        self._flags = 0
        self._main = ModuleType("__main__")
        self._main.__dict__["__builtins__"] = builtins
        self._process = os.getpid()

    def prepare(self) -> None:
        """Do before the program is there what can be done then.

        Copies of one interpreter must not share their randomness. And what is written to for the first time after
        a fork is copied, page by page: whatever every program does is done once now, for nothing.
        """
        random.seed()
        if (numpy_random := sys.modules.get("numpy.random")) is not None:
            numpy_random.seed()
        sys.modules["__main__"] = self._main
        sys.path.insert(0, WORKING_FOLDER)
        builtins.display = self._display  # type: ignore[attr-defined]
        self._figures.watch()
        streams.open_all()
        body, expression = source.compiled(b"print(end='')\n1", self._file_name)
        assert expression is not None
        eval(body, {})  # noqa: S307 -- our own.
        results.encode(forms.of(eval(expression, {})))  # noqa: S307 -- our own.

    def run_last(self, program: bytes) -> int:
        """Run `program`, and end as any interpreter does. Return its exit code."""
        return self.finish(self.run(program))

    def run(self, program: bytes, started: Callable[[], object] = lambda: None) -> int:
        """Run `program`, and tell what it leaves open. Return its exit code.

        `started` is called when it can be interrupted.
        """
        started()
        exit_code = _guarded(lambda: self._execute(program))
        if os.getpid() != self._process:  # A child, come to the end of its program.
            os._exit(self.finish(exit_code))
        exit_code = _guarded(self._figures.show) or exit_code
        streams.flush()
        return exit_code

    def finish(self, exit_code: int) -> int:
        """What happens at the end of any interpreter: threads are waited for, and exit handlers called."""
        for end in (threading._shutdown, atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):  # type: ignore[attr-defined]  # noqa: SLF001
            exit_code = _guarded(end) or exit_code
        return exit_code

    def _execute(self, program: bytes) -> None:
        file_name = self._next_file_name()
        text = program.decode("utf-8", "replace")
        linecache.cache[file_name] = (len(text), None, text.splitlines(keepends=True), file_name)
        body, expression = source.compiled(program, file_name, self._flags)
        self._flags |= source.futures(body)
        self._evaluate(body)
        if expression is not None and (value := self._evaluate(expression)) is not None:
            self._display(value)

    def _next_file_name(self) -> str:
        """Its own for each program, so that tracebacks into earlier ones show the right lines."""
        self._program_count += 1
        linecache.cache.pop(self._file_name_of(self._program_count - SOURCES_COUNT_MAX), None)
        return self._file_name_of(self._program_count)

    def _file_name_of(self, program_number: int) -> str:
        if program_number == 1:
            return self._file_name
        stem, dot, ending = self._file_name.rpartition(".")
        return f"{stem}-{program_number}{dot}{ending}"

    def _evaluate(self, code: CodeType) -> object:
        return eval(code, self._main.__dict__)  # noqa: S307 -- this is what the walls are for.

    def _display(self, *values: object) -> None:
        """Show each of `values`, in the forms that it has."""
        for value in values:
            told = forms.of(value)
            if (png := self._figures.png(value)) is not None:
                told[FIGURE] = png
            streams.flush()  # What was printed before it is to be told before it.
            self.results.tell(told)


def _guarded(act: Callable[[], object]) -> int:
    """Return the exit code that the interpreter would give to how `act` ended. SIGINT can interrupt it."""
    try:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            act()
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        with suppress(BaseException):
            print(end.code, file=sys.stderr)  # noqa: T201 -- what sys.exit("text") does.
        return 1
    except BaseException as error:  # noqa: BLE001 -- the program's own, told like any traceback.
        _print_traceback(error)
        return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _print_traceback(error: BaseException) -> None:
    """Without our own frames."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_OURS):
        frames = frames.tb_next
    with suppress(BaseException):  # Its own __str__, or its closed stderr, must not stop us.
        traceback.print_exception(type(error), error, frames)
