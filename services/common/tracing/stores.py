"""What was asked of stores, within a call that is recorded: by name, never by what was asked.

A transaction's BEGIN goes with its first statement, so it is no span of its own; its COMMIT, which waits for a disk, is.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

from asyncpg.connection import LoggedQuery

from services.common.statements import summary
from services.common.tracing.current import inner, recorded
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
    if name == "BEGIN":
        return
    ended_ns = time.time_ns()
    span = parent.child(_statement(name), started_ns=ended_ns - round(query.elapsed * 1e9))
    if query.exception is not None:
        span.fail(type(query.exception).__name__)
    span.end(ended_ns)


def connection_waited(waited_s: float) -> None:
    """A connection is there, after a while."""
    if waited_s >= WAIT_S_MIN and (parent := recorded()) is not None:
        ended_ns = time.time_ns()
        parent.child(_WAIT, started_ns=ended_ns - round(waited_s * 1e9)).end(ended_ns)


@contextmanager
def redis_asked(commands: Sequence[Sequence[object]]) -> Iterator[None]:
    """Redis is asked, with one or several commands at once, for as long as the block lasts."""
    if recorded() is None or not commands:
        yield
        return
    with inner(_asked(str(commands[0][0]), len(commands))):
        yield


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
