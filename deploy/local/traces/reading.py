"""What the command line asks of the store, while another process writes or none does."""

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec

from deploy.local.traces.records import FILE, Span, Summary

PREFIX = re.compile(r"[0-9a-f]{4,32}")
FOUND_MAX = 20
SUMMARY = (
    "SELECT trace_id, name, service, start_ns, end_ns, span_count, error_count, left_out_count FROM traces"
)


class NoTracesError(Exception):
    """There is no store, or it cannot be read; the text says which, as a clause."""


@contextlib.contextmanager
def reading(home: Path) -> Iterator["TraceReader"]:
    """The store in `home`. Raises NoTracesError."""
    file = home / FILE
    if not file.is_file():
        raise NoTracesError("none were ever kept here")
    try:
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as base:
            yield TraceReader(base)
    except sqlite3.Error as error:
        raise NoTracesError(f"{file} cannot be read ({error})") from error


class TraceReader:
    def __init__(self, base: sqlite3.Connection) -> None:
        self._base = base

    def latest(self, limit: int) -> list[Summary]:
        """Those that began last, the last one first."""
        return self._summaries(f"{SUMMARY} ORDER BY start_ns DESC LIMIT ?", limit)

    def find(self, name: str) -> list[Summary]:
        """The traces that are meant by an id, by what one begins with, or by the id of a request, run or execution."""
        wanted = name.strip().lower()
        if PREFIX.fullmatch(wanted):
            after = f"{wanted}g"  # Behind all hexadecimal digits.
            found = self._summaries(
                f"{SUMMARY} WHERE trace_id >= ? AND trace_id < ? LIMIT ?", wanted, after, FOUND_MAX
            )
            if found:
                return found
        return self._summaries(
            f"{SUMMARY} JOIN names USING (trace_id) WHERE known_as = ? LIMIT ?", wanted, FOUND_MAX
        )

    def spans(self, trace_id: str) -> list[Span]:
        rows = self._base.execute("SELECT record FROM spans WHERE trace_id = ?", (trace_id,))
        return [msgspec.json.decode(record, type=Span) for (record,) in rows]

    def _summaries(self, query: str, *values: object) -> list[Summary]:
        rows = self._base.execute(query, values)
        return [Summary(**dict(zip(Summary.__struct_fields__, row, strict=True))) for row in rows]
