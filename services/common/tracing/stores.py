"""What was asked of stores, within a call that is recorded: by name, never by what was asked.

A transaction's BEGIN says nothing and its COMMIT only something if it had to wait, as for a disk. A call that asks very
often, such as a run that is written down as it goes, tells a number of them and counts the rest.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

from asyncpg.connection import LoggedQuery

from services.common.statements import summary
from services.common.tracing.current import ended_by, recorded
from services.common.tracing.encode import Value
from services.common.tracing.spans import Kind, Shape

SHAPES_MAX = 1024
WAIT_S_MIN = 0.001  # What a connection that is free takes is no wait.
_WAIT = Shape("postgresql connection", Kind.INTERNAL, {"db.system.name": "postgresql"})


def statement_ran(query: LoggedQuery) -> None:
    """A statement of PostgreSQL has ended, just now."""
    if (parent := recorded()) is None:
        return
    name = summary(query.query)
    if name == "BEGIN" or (name == "COMMIT" and query.elapsed < WAIT_S_MIN):
        return
    ended_ns = time.time_ns()
    span = parent.detail(_statement(name), started_ns=ended_ns - round(query.elapsed * 1e9))
    if span is None:
        return
    if query.exception is not None:
        ended_by(span, query.exception)
    span.end(ended_ns)


def connection_waited(waited_s: float) -> None:
    """A connection is there, after a while."""
    if waited_s >= WAIT_S_MIN and (parent := recorded()) is not None:
        ended_ns = time.time_ns()
        if (span := parent.detail(_WAIT, started_ns=ended_ns - round(waited_s * 1e9))) is not None:
            span.end(ended_ns)


@contextmanager
def redis_asked(commands: Sequence[Sequence[object]]) -> Iterator[None]:
    """Redis is asked, with one or several commands at once, for as long as the block lasts."""
    parent = recorded()
    if parent is None or not commands:
        yield
        return
    span = parent.detail(_asked(str(commands[0][0]), len(commands)))
    try:
        yield
    except BaseException as error:
        if span is not None:
            ended_by(span, error)
        raise
    finally:
        if span is not None:
            span.end()


@lru_cache(SHAPES_MAX)
def _statement(name: str) -> Shape:
    verb, _, table = name.partition(" ")
    about: dict[str, Value] = {
        "db.system.name": "postgresql",
        "db.operation.name": verb,
        "db.query.summary": name,
    }
    if table:
        about["db.collection.name"] = table
    return Shape(name, Kind.CLIENT, about)


@lru_cache(SHAPES_MAX)
def _asked(command: str, count: int) -> Shape:
    """A script has a name of its own, but it is a hash."""
    about: dict[str, Value] = {"db.system.name": "redis", "db.operation.name": command}
    if count > 1:
        about["db.operation.batch.size"] = count
    return Shape(f"{command} x{count}" if count > 1 else command, Kind.CLIENT, about)
