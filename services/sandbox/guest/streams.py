"""The standard streams of a program, over descriptors 0, 1 and 2."""

import io
import sys
from contextlib import suppress

_OUTPUTS = {"stdout": 1, "stderr": 2}


def open_all() -> None:
    """Like a plain interpreter's, but by line, so that what was printed before a kill is not lost."""
    open_input()
    for name, number in _OUTPUTS.items():
        raw = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
        stream = io.TextIOWrapper(raw, "utf-8", "backslashreplace", line_buffering=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def open_input() -> None:
    """Afresh: what an earlier one has read ahead is not for this program."""
    raw = io.BufferedReader(io.FileIO(0, "r", closefd=False))
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(raw, "utf-8", "surrogateescape")  # type: ignore[misc]


def flush() -> None:
    """Send on what has been printed; a stream that is closed has sent it."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
