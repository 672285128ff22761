"""The standard streams of a program, over descriptors 0, 1 and 2."""

import io
import sys
from contextlib import suppress


def open_all() -> None:
    """Like a plain interpreter's, but by line, so that what was printed before a kill is not lost.

    For each program afresh: one before it may have closed or replaced them, or have read ahead.
    """
    stdin = io.BufferedReader(io.FileIO(0, "r", closefd=False))
    sys.stdin = io.TextIOWrapper(stdin, "utf-8", "surrogateescape")
    for name, number in (("stdout", 1), ("stderr", 2)):
        raw = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
        setattr(sys, name, io.TextIOWrapper(raw, "utf-8", "backslashreplace", line_buffering=True))
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, f"__{name}__", getattr(sys, name))


def flush() -> None:
    """Send on what has been printed; a stream that is closed has sent it."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        with suppress(Exception):
            stream.flush()  # type: ignore[union-attr]
