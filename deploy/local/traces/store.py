"""Spans on disk: one SQLite file that one process writes, and any number read meanwhile.

Bounded by bytes and by age: the traces of which nothing was heard for the longest time go first, and whole. A span
that comes twice is kept once. A file that is no store of this version is put aside, for it holds nothing that is
worth a person's time.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from deploy.local.traces.intake import NAME_CHARACTERS_MAX, Taken
from deploy.local.traces.records import NAMED_BY

VERSION = 1
SPANS_PER_TRACE_MAX = 5_000
TRIM_PART = 20  # Of all traces, what goes at once when there are too many bytes.
BROKEN_SUFFIX = ".broken"
SCHEMA = f"""
    CREATE TABLE traces (
        trace_id TEXT PRIMARY KEY, heard_s REAL NOT NULL,
        name TEXT NOT NULL, service TEXT NOT NULL, start_ns INTEGER NOT NULL, end_ns INTEGER NOT NULL,
        span_count INTEGER NOT NULL, error_count INTEGER NOT NULL, left_out_count INTEGER NOT NULL
    );
    CREATE INDEX traces_heard ON traces (heard_s);
    CREATE INDEX traces_start ON traces (start_ns);
    CREATE TABLE spans (
        trace_id TEXT NOT NULL, span_id TEXT NOT NULL, record BLOB NOT NULL, PRIMARY KEY (trace_id, span_id)
    );
    CREATE TABLE names (known_as TEXT NOT NULL, trace_id TEXT NOT NULL, PRIMARY KEY (known_as, trace_id));
    CREATE INDEX names_trace ON names (trace_id);
    PRAGMA user_version = {VERSION};
"""
# The first of its spans gives a trace its name.
ADD_TRACE = """
    INSERT INTO traces VALUES (:trace_id, :heard_s, :name, :service, :start_ns, :end_ns, 1, :is_error, 0)
    ON CONFLICT (trace_id) DO UPDATE SET
        heard_s = excluded.heard_s,
        name = iif(excluded.start_ns < start_ns, excluded.name, name),
        service = iif(excluded.start_ns < start_ns, excluded.service, service),
        start_ns = min(start_ns, excluded.start_ns),
        end_ns = max(end_ns, excluded.end_ns),
        span_count = span_count + 1,
        error_count = error_count + excluded.error_count
"""


class TraceStore:
    """Writes. Of one thread."""

    def __init__(
        self, file: Path, *, bytes_max: int, age_max_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._bytes_max, self._age_max_s, self._clock = bytes_max, age_max_s, clock
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._base = _opened(file)

    def close(self) -> None:
        self._base.close()

    def add(self, spans: Iterable[Taken]) -> None:
        """Keep them, and let go of what is too old or too much. Raises sqlite3.Error; then none is kept."""
        now_s = self._clock()
        with self._transaction():
            for taken in spans:
                self._add(taken, now_s)
        self.trim()

    def trim(self) -> None:
        """Let go of what is too old or too much."""
        oldest_s = self._clock() - self._age_max_s
        self._let_go("SELECT trace_id FROM traces WHERE heard_s < ?", oldest_s)
        while self._used_bytes() > self._bytes_max and (count := self._count()) > 0:
            self._let_go("SELECT trace_id FROM traces ORDER BY heard_s LIMIT ?", count // TRIM_PART + 1)

    def _let_go(self, which: str, value: float) -> None:
        with self._transaction():
            ids = self._base.execute(which, (value,)).fetchall()
            for table in ("traces", "spans", "names"):
                self._base.executemany(f"DELETE FROM {table} WHERE trace_id = ?", ids)  # noqa: S608 - Ours.

    def _add(self, taken: Taken, now_s: float) -> None:
        span = taken.span
        found = self._base.execute("SELECT span_count FROM traces WHERE trace_id = ?", (span.trace_id,))
        if (found.fetchone() or (0,))[0] >= SPANS_PER_TRACE_MAX:
            self._base.execute(
                "UPDATE traces SET left_out_count = left_out_count + 1 WHERE trace_id = ?", (span.trace_id,)
            )
            return
        added = self._base.execute(
            "INSERT OR IGNORE INTO spans VALUES (?, ?, ?)", (span.trace_id, span.span_id, taken.record)
        )
        if added.rowcount == 0:
            return
        self._base.execute(
            ADD_TRACE,
            {
                "trace_id": span.trace_id,
                "heard_s": now_s,
                "name": span.name,
                "service": span.service,
                "start_ns": span.start_ns,
                "end_ns": max(span.start_ns, span.end_ns),
                "is_error": span.is_error,
            },
        )
        names = {str(span.attributes.get(key, "")).lower() for key in NAMED_BY}
        self._base.executemany(
            "INSERT OR IGNORE INTO names VALUES (?, ?)",
            ((name, span.trace_id) for name in names if 0 < len(name) <= NAME_CHARACTERS_MAX),
        )

    def _count(self) -> int:
        count: int = self._base.execute("SELECT count(*) FROM traces").fetchone()[0]
        return count

    def _used_bytes(self) -> int:
        size, pages, free = (
            self._base.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_size", "page_count", "freelist_count")
        )
        return int(size) * (int(pages) - int(free))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._base.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._base.in_transaction:  # A full disk has ended it already.
                self._base.execute("ROLLBACK")
            raise
        self._base.execute("COMMIT")


def _opened(file: Path) -> sqlite3.Connection:
    try:
        return _connected(file)
    except sqlite3.OperationalError:
        raise  # The disk, the permissions: another file would do no better.
    except sqlite3.DatabaseError:
        file.replace(file.with_name(file.name + BROKEN_SUFFIX))
        for suffix in ("-wal", "-shm"):
            file.with_name(file.name + suffix).unlink(missing_ok=True)
        return _connected(file)


def _connected(file: Path) -> sqlite3.Connection:
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600))  # SQLite's own files take its permissions.
    base = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    try:
        # Whoever reads does not wait, and is not waited for. A crash of the machine may cost the last seconds.
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = NORMAL")
        (version,) = base.execute("PRAGMA user_version").fetchone()
        if version == 0:
            base.executescript(f"BEGIN; {SCHEMA} COMMIT;")
        elif version != VERSION:
            raise sqlite3.DatabaseError("it is a store of another version")
        elif base.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("it is damaged")
    except BaseException:
        base.close()
        raise
    return base
